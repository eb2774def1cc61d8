/** Folds deltas into a message, and checks that each begins where the one before it ended. */

import { create, equals } from "@bufbuild/protobuf";

import { StreamGapError } from "./errors.js";
import {
  AnnotationSchema,
  BlobDeltaSchema,
  BlobSchema,
  MessageDeltaSchema,
  MessageSchema,
  PartSchema,
  PartState,
  ReasoningSchema,
  RefusalSchema,
  Role,
  TextSchema,
  ToolCallDeltaSchema,
  ToolCallSchema,
  type Annotation,
  type Blob,
  type BlobDelta,
  type Message,
  type MessageDelta,
  type Part,
  type ProviderState,
} from "./gen/midstream/v1/run_pb.js";

type Payload = MessageDelta["payload"];
type Kind = NonNullable<Payload["case"]>;
type KnownPayload = Extract<Payload, { case: Kind }>;

/**
 * The message so far. `beginsMidway` is for a reader that asked for the end of a log only: the payload of a part then
 * begins at the first offset seen.
 */
export class MessageAccumulator {
  readonly #beginsMidway: boolean;
  readonly #parts: PartSoFar[] = [];

  constructor(beginsMidway = false) {
    this.#beginsMidway = beginsMidway;
  }

  /** The text parts, joined. */
  get text(): string {
    return this.#parts.map((part) => (part.kind === "text" ? part.text : "")).join("");
  }

  /** The message so far; parts that were not closed are OPEN. */
  message(): Message {
    return create(MessageSchema, { role: Role.ASSISTANT, parts: this.#parts.map((part) => part.build()) });
  }

  /**
   * Adds a delta and returns what of it is new. With `overlaps` it may begin before the end of its part; only what
   * follows is taken. Throws a StreamGapError, and adds nothing, if it does not continue its part.
   */
  fold(delta: MessageDelta, overlaps = false): MessageDelta {
    const part = this.#part(delta.partIndex);
    let folded = delta;
    if (delta.payload.case === undefined) {
      part.isOpaque ||= (delta.$unknown?.length ?? 0) > 0;
    } else {
      folded = part.restOf(delta, delta.payload, overlaps);
      part.append(folded);
    }
    part.addState(folded, overlaps);
    return folded;
  }

  /** Adds what a snapshot has beyond the message so far, and returns it as deltas. Throws like `fold`. */
  foldSnapshot(message: Message | undefined): MessageDelta[] {
    return (message?.parts ?? []).map((part, index) => this.fold(wholeDelta(index, part), true));
  }

  /** Throws a StreamGapError if the deltas do not add up to the message of a run that has ended. */
  checkFinal(message: Message | undefined): void {
    const parts = message?.parts ?? [];
    const mayLack = this.#beginsMidway && this.#parts.length < parts.length;
    if (this.#parts.length !== parts.length && !mayLack) {
      throw new StreamGapError(`the final message has ${parts.length} parts, ${this.#parts.length} were received`);
    }
    for (const [index, mine] of this.#parts.entries()) {
      const final = parts[index];
      if (final && !mine.isEndOf(final)) {
        throw new StreamGapError(`part ${index} of the final message is not what was received`);
      }
    }
  }

  #part(index: number): PartSoFar {
    if (index > this.#parts.length && !this.#beginsMidway) {
      throw new StreamGapError(`part ${index} begins before part ${this.#parts.length}`);
    }
    while (index >= this.#parts.length) this.#parts.push(new PartSoFar(this.#beginsMidway ? undefined : 0));
    return this.#parts[index] as PartSoFar;
  }
}

/** A part so far. An opaque one holds what we cannot read. */
class PartSoFar {
  kind: Kind | undefined;
  text = "";
  isOpaque = false;
  /** Its payload's bytes; undefined if not known yet. */
  #end: number | undefined;
  #data: Uint8Array[] = [];
  #names: { id?: string; name?: string; mimeType?: string; url?: string; fileId?: string } = {};
  #annotations: Annotation[] = [];
  #providerState: ProviderState | undefined;
  #state = PartState.OPEN;

  constructor(end: number | undefined) {
    this.#end = end;
  }

  restOf(delta: MessageDelta, payload: KnownPayload, overlaps: boolean): MessageDelta {
    if (this.kind !== undefined && this.kind !== payload.case) {
      throw new StreamGapError(`part ${delta.partIndex} was ${this.kind} and goes on as ${payload.case}`);
    }
    const offset = Number(delta.offset);
    if (this.isOpaque || this.#end === undefined || offset === this.#end) return delta;
    if (!overlaps || offset > this.#end || this.#end > offset + sizeOf(payload)) {
      throw new StreamGapError(`part ${delta.partIndex} ends at byte ${this.#end} and goes on at ${offset}`);
    }
    return cut(delta, payload, this.#end - offset);
  }

  append(delta: MessageDelta): void {
    const { payload } = delta;
    if (payload.case === undefined) return;
    this.kind = payload.case;
    if (payload.case === "blob") {
      if (payload.value.data.length > 0) this.#data.push(payload.value.data);
      this.#rename({ mimeType: payload.value.mimeType, url: payload.value.url, fileId: payload.value.fileId });
    } else if (payload.case === "toolCall") {
      this.text += payload.value.arguments;
      this.#rename({ id: payload.value.id, name: payload.value.name });
    } else {
      this.text += payload.value;
    }
    this.#end = Number(delta.offset) + sizeOf(payload);
  }

  addState(delta: MessageDelta, overlaps: boolean): void {
    for (const annotation of delta.annotations) {
      const isKnown = overlaps && this.#annotations.some((each) => equals(AnnotationSchema, each, annotation));
      if (!isKnown) this.#annotations.push(annotation);
    }
    if (delta.providerState) this.#providerState = delta.providerState;
    if (delta.partEnd) this.#state = delta.partEnd;
  }

  build(): Part {
    const part = create(PartSchema, { state: this.#state, part: this.#content() });
    if (this.#providerState) part.providerState = this.#providerState;
    return part;
  }

  /** Whether the final part ends with this payload, and is as long. */
  isEndOf(final: Part): boolean {
    const { payload } = wholeDelta(0, final);
    if (this.isOpaque || this.#end === undefined || payload.case === undefined) return true;
    if ((this.kind !== undefined && this.kind !== payload.case) || sizeOf(payload) !== this.#end) return false;
    if (payload.case !== "blob") return textOfPayload(payload).endsWith(this.text);
    const received = this.#bytes();
    return received.equals(payload.value.data.subarray(payload.value.data.length - received.length));
  }

  #content(): Part["part"] {
    const { text } = this;
    switch (this.kind) {
      case "text":
        return { case: "text", value: create(TextSchema, { text, annotations: [...this.#annotations] }) };
      case "reasoning":
        return { case: "reasoning", value: create(ReasoningSchema, { text }) };
      case "refusal":
        return { case: "refusal", value: create(RefusalSchema, { text }) };
      case "toolCall":
        return { case: "toolCall", value: create(ToolCallSchema, { ...this.#names, arguments: text }) };
      case "blob":
        return { case: "blob", value: this.#blob() };
      case undefined:
        return { case: undefined };
    }
  }

  #blob(): Blob {
    const blob = create(BlobSchema, { mimeType: this.#names.mimeType ?? "" });
    if (this.#names.url) blob.source = { case: "url", value: this.#names.url };
    else if (this.#names.fileId) blob.source = { case: "fileId", value: this.#names.fileId };
    else if (this.#data.length > 0) blob.source = { case: "data", value: new Uint8Array(this.#bytes()) };
    return blob;
  }

  #bytes(): Buffer {
    return Buffer.concat(this.#data);
  }

  #rename(names: Record<string, string>): void {
    for (const [key, value] of Object.entries(names)) if (value) Object.assign(this.#names, { [key]: value });
  }
}

function textOfPayload(payload: Exclude<KnownPayload, { case: "blob" }>): string {
  return payload.case === "toolCall" ? payload.value.arguments : payload.value;
}

function sizeOf(payload: KnownPayload): number {
  return payload.case === "blob" ? payload.value.data.length : Buffer.byteLength(textOfPayload(payload));
}

/** A copy without the first `count` bytes of its payload. */
function cut(delta: MessageDelta, payload: KnownPayload, count: number): MessageDelta {
  return { ...delta, offset: delta.offset + BigInt(count), payload: cutPayload(delta.partIndex, payload, count) };
}

function cutPayload(partIndex: number, payload: KnownPayload, count: number): KnownPayload {
  if (payload.case === "blob") {
    return { case: "blob", value: { ...payload.value, data: payload.value.data.subarray(count) } satisfies BlobDelta };
  }
  const bytes = Buffer.from(textOfPayload(payload));
  if (((bytes[count] ?? 0) & 0xc0) === 0x80) {
    throw new StreamGapError(`part ${partIndex} goes on inside a character`);
  }
  const rest = bytes.toString("utf8", count);
  if (payload.case === "toolCall") return { case: "toolCall", value: { ...payload.value, arguments: rest } };
  return { case: payload.case, value: rest };
}

/** A delta that makes the whole part. */
function wholeDelta(partIndex: number, part: Part): MessageDelta {
  const delta = create(MessageDeltaSchema, { partIndex });
  if (part.state !== PartState.OPEN) delta.partEnd = part.state;
  if (part.providerState) delta.providerState = part.providerState;
  if (part.part.case === "text") delta.annotations = [...part.part.value.annotations];
  delta.payload = wholePayload(part);
  return delta;
}

function wholePayload({ part }: Part): Payload {
  switch (part.case) {
    case "text":
    case "reasoning":
    case "refusal":
      return { case: part.case, value: part.value.text };
    case "toolCall": {
      const { id, name, arguments: text } = part.value;
      return { case: "toolCall", value: create(ToolCallDeltaSchema, { id, name, arguments: text }) };
    }
    case "blob": {
      const { mimeType, source } = part.value;
      const content = source.case === undefined ? {} : { [source.case]: source.value };
      return { case: "blob", value: create(BlobDeltaSchema, { mimeType, ...content }) };
    }
    default:
      return { case: undefined };
  }
}
