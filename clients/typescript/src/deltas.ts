/** What iterating over a stream gives. */

import type {
  Annotation,
  BlobDelta,
  MessageDelta,
  PartState,
  ProviderState,
  TokenLogprob,
  ToolCallDelta,
} from "./gen/midstream/v1/run_pb.js";

/**
 * More of a message.
 *
 * At most one of `text`, `reasoning`, `refusal`, `toolCall` and `blob` is set; `text` is the answer's own text and may
 * always be printed.
 */
export interface Delta {
  /** The last of the run's sequences that it covers. */
  readonly sequence: number;
  /** The first one; less than `sequence` if the server merged entries for a reader that lagged. */
  readonly firstSequence: number;
  /** The index in `message.parts` of the part that it appends to, or opens. */
  readonly partIndex: number;
  /** UTF-8 bytes of that part's payload that came before. */
  readonly offset: number;
  readonly text: string;
  readonly reasoning: string;
  readonly refusal: string;
  readonly toolCall: ToolCallDelta | undefined;
  readonly blob: BlobDelta | undefined;
  /** The state in which it leaves the part, if it closes it. */
  readonly partEnd: PartState | undefined;
  /** Replaces the part's. */
  readonly providerState: ProviderState | undefined;
  /** Added to the part's. */
  readonly annotations: readonly Annotation[];
  /** Of the tokens in it. */
  readonly logprobs: readonly TokenLogprob[];
}

/** The delta as a value; undefined if there is nothing in it that this version knows. */
export function deltaOf(delta: MessageDelta, firstSequence: number, sequence: number): Delta | undefined {
  const { payload } = delta;
  if (!payload.case && !delta.partEnd && !delta.providerState && delta.annotations.length === 0) return undefined;
  return {
    sequence,
    firstSequence,
    partIndex: delta.partIndex,
    offset: Number(delta.offset),
    text: payload.case === "text" ? payload.value : "",
    reasoning: payload.case === "reasoning" ? payload.value : "",
    refusal: payload.case === "refusal" ? payload.value : "",
    toolCall: payload.case === "toolCall" ? payload.value : undefined,
    blob: payload.case === "blob" ? payload.value : undefined,
    partEnd: delta.partEnd || undefined,
    providerState: delta.providerState,
    annotations: delta.annotations,
    logprobs: delta.logprobs,
  };
}
