/** Requests of the contract from the arguments of the client's methods. */

import { create, toBinary, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt";

import {
  CancelRequestSchema,
  GenerateRequestSchema,
  GenerationParameters_ReasoningSchema,
  GenerationParametersSchema,
  GetRunRequestSchema,
  ListRunsRequestSchema,
  WatchRunRequestSchema,
  type CancelRequest,
  type GenerateRequest,
  type GenerationParameters,
  type GenerationParameters_Reasoning_Effort,
  type GetRunRequest,
  type ListRunsRequest,
  type MessageView,
  type WatchRunRequest,
} from "./gen/midstream/v1/generation_service_pb.js";
import {
  DetachPolicy_Action,
  DetachPolicySchema,
  RunLimitsSchema,
  type ConversationPolicy,
  type DetachPolicy,
  type RunLimits,
  type RunState,
} from "./gen/midstream/v1/run_pb.js";
import { toMessages, toTool, toToolChoice, type Messages, type ToolChoiceLike, type ToolLike } from "./messages.js";
import { newRunId } from "./run-id.js";

export const DEFAULT_GRACE_MS = 10_000;

type Bound = number | bigint;
type ParametersInit = MessageInitShape<typeof GenerationParametersSchema>;

/** How to sample; whole numbers may be numbers. */
export type Parameters =
  | GenerationParameters
  | (Omit<ParametersInit, "$typeName" | "$unknown" | "maxOutputTokens" | "seed" | "reasoning"> & {
      maxOutputTokens?: Bound;
      seed?: Bound;
      reasoning?: { effort?: GenerationParameters_Reasoning_Effort; budgetTokens?: Bound; include?: boolean };
    });

/** What happens when nobody follows a run any more. */
export type DetachLike = "cancel" | "continue" | { readonly graceMs: number } | DetachPolicy;

/** The caller's limits. */
export type Limits =
  RunLimits | { firstTokenMs?: number; idleMs?: number; totalMs?: number; queueMs?: number; outputTokens?: Bound };

/** What `generate` takes besides the model and the messages. */
export interface GenerateOptions {
  /** The run's id. Default: a new UUIDv7. A repeat with the same id and request follows the same run. */
  readonly runId?: string | undefined;
  /** Text of a system message in front of the others. */
  readonly system?: string | undefined;
  /** What the model may call. */
  readonly tools?: Iterable<ToolLike> | undefined;
  /** Whether it must. */
  readonly toolChoice?: ToolChoiceLike | undefined;
  /** How to sample. */
  readonly parameters?: Parameters | undefined;
  /**
   * What happens when nobody follows the run any more. Default: a grace of 10 s, so that a lost connection can be
   * resumed; leaving the stream stops the run at once all the same.
   */
  readonly onDetach?: DetachLike | undefined;
  /** The caller's limits. */
  readonly limits?: Limits | undefined;
  /** The conversation that the run belongs to. */
  readonly conversationId?: string | undefined;
  /** What to do if other runs of the conversation are live. */
  readonly onConflict?: ConversationPolicy | undefined;
  /** The id of a run whose partial message the model is to go on with. */
  readonly continueFrom?: string | undefined;
  /** The run that caused this one. */
  readonly parentRunId?: string | undefined;
  /** Recorded with the run. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** How long the run is kept after its end, in milliseconds. */
  readonly retentionMs?: number | undefined;
  /** Added to the upstream's request as they are. */
  readonly providerOptions?: JsonObject | undefined;
  /** Milliseconds from opening the stream until DeadlineExceeded, calls that resume it included. */
  readonly timeoutMs?: number | undefined;
  /** Leaves the stream when it is aborted, which stops the run. */
  readonly signal?: AbortSignal | undefined;
}

/** How to follow a run that exists. */
export interface WatchOptions {
  /** Begin after this sequence; what came before is then missing in `text` until the end. */
  readonly afterSequence?: number | undefined;
  /** Begin with all so far, as one delta per part. */
  readonly fromSnapshot?: boolean | undefined;
  /** Hold a claim: leaving the stream stops the run. Without it leaving never does. */
  readonly claim?: boolean | undefined;
  /** Milliseconds until DeadlineExceeded. */
  readonly timeoutMs?: number | undefined;
  /** Leaves the stream when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** Which runs to list. All pages are read, whatever the size of a page. */
export interface ListFilters {
  readonly state?: RunState | undefined;
  readonly conversationId?: string | undefined;
  readonly parentRunId?: string | undefined;
  /** Only runs with all of these labels. */
  readonly labels?: Readonly<Record<string, string>> | undefined;
  /** Runs per call, at most 500. */
  readonly pageSize?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** The request of `generate`. Throws a TypeError for a value that has no form in the contract. */
export function generateRequest(model: string, messages: Messages, options: GenerateOptions): GenerateRequest {
  const request = create(GenerateRequestSchema, {
    runId: options.runId || newRunId(),
    model,
    messages: toMessages(messages, options.system),
    tools: [...(options.tools ?? [])].map(toTool),
    onDetach: toDetachPolicy(options.onDetach ?? { graceMs: DEFAULT_GRACE_MS }),
    conversationId: options.conversationId ?? "",
    onConflict: options.onConflict ?? 0,
    continueFrom: options.continueFrom ?? "",
    parentRunId: options.parentRunId ?? "",
    labels: { ...options.labels },
  });
  if (options.toolChoice !== undefined) request.toolChoice = toToolChoice(options.toolChoice);
  if (options.parameters) request.parameters = toParameters(options.parameters);
  if (options.limits) request.limits = toLimits(options.limits);
  if (options.retentionMs !== undefined) request.retention = durationFromMs(options.retentionMs);
  if (options.providerOptions) request.providerOptions = options.providerOptions;
  toBinary(GenerateRequestSchema, request); // a value of a wrong type is the caller's error, here and now
  return request;
}

/** The request of `watch`. Throws a TypeError if both ways to begin are given. */
export function watchRequest(runId: string, options: WatchOptions): WatchRunRequest {
  const { afterSequence, fromSnapshot, claim = false } = options;
  if (fromSnapshot && afterSequence !== undefined) {
    throw new TypeError("a watch begins after a sequence or from a snapshot, not both");
  }
  const request = create(WatchRunRequestSchema, { runId, claim });
  if (fromSnapshot) request.start = { case: "fromSnapshot", value: true };
  else if (afterSequence !== undefined) request.start = { case: "afterSequence", value: BigInt(afterSequence) };
  return request;
}

/** The request of `cancel`. */
export function cancelRequest(runId: string, reason: string, waitMs: number | undefined): CancelRequest {
  return create(CancelRequestSchema, {
    runId,
    reason,
    ...(waitMs === undefined ? {} : { wait: durationFromMs(waitMs) }),
  });
}

/** The request of `get`; without `maxWaitMs` it does not wait. */
export function getRequest(runId: string, messageView: MessageView, maxWaitMs: number | undefined): GetRunRequest {
  const waiting = maxWaitMs === undefined ? {} : { waitUntilFinished: true, maxWait: durationFromMs(maxWaitMs) };
  return create(GetRunRequestSchema, { runId, messageView, ...waiting });
}

/** The request of a page of `list`. */
export function listRequest(filters: ListFilters, pageToken: string): ListRunsRequest {
  return create(ListRunsRequestSchema, {
    pageSize: filters.pageSize ?? 0,
    pageToken,
    state: filters.state ?? 0,
    conversationId: filters.conversationId ?? "",
    parentRunId: filters.parentRunId ?? "",
    labels: { ...filters.labels },
  });
}

/** How long a lost connection is worth resuming: the grace, where there is one. */
export function resumeMsOf({ onDetach }: GenerateRequest): number {
  return onDetach?.action === DetachPolicy_Action.GRACE && onDetach.grace
    ? durationMs(onDetach.grace)
    : DEFAULT_GRACE_MS;
}

function toDetachPolicy(policy: DetachLike): DetachPolicy {
  if (policy === "cancel") return create(DetachPolicySchema, { action: DetachPolicy_Action.CANCEL });
  if (policy === "continue") return create(DetachPolicySchema, { action: DetachPolicy_Action.CONTINUE });
  if (typeof policy === "object" && "$typeName" in policy) return policy;
  if (typeof policy === "object" && typeof policy.graceMs === "number") {
    return create(DetachPolicySchema, { action: DetachPolicy_Action.GRACE, grace: durationFromMs(policy.graceMs) });
  }
  throw new TypeError('onDetach is "cancel", "continue", { graceMs } or a DetachPolicy');
}

function toParameters(parameters: Parameters): GenerationParameters {
  if ("$typeName" in parameters) return parameters;
  const { maxOutputTokens, seed, reasoning, ...others } = parameters;
  const made = create(GenerationParametersSchema, others);
  if (maxOutputTokens !== undefined) made.maxOutputTokens = BigInt(maxOutputTokens);
  if (seed !== undefined) made.seed = BigInt(seed);
  if (!reasoning) return made;
  const { budgetTokens, ...rest } = reasoning;
  made.reasoning = create(GenerationParameters_ReasoningSchema, rest);
  if (budgetTokens !== undefined) made.reasoning.budgetTokens = BigInt(budgetTokens);
  return made;
}

function toLimits(limits: Limits): RunLimits {
  if ("$typeName" in limits) return limits;
  const made = create(RunLimitsSchema);
  if (limits.firstTokenMs !== undefined) made.firstToken = durationFromMs(limits.firstTokenMs);
  if (limits.idleMs !== undefined) made.idle = durationFromMs(limits.idleMs);
  if (limits.totalMs !== undefined) made.total = durationFromMs(limits.totalMs);
  if (limits.queueMs !== undefined) made.queue = durationFromMs(limits.queueMs);
  if (limits.outputTokens !== undefined) made.outputTokens = BigInt(limits.outputTokens);
  return made;
}
