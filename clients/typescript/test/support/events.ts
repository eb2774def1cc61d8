/** Logs of runs, as a server would send them. */

import { create, type MessageInitShape } from "@bufbuild/protobuf";

import { MessageDeltaSchema, PartState, RunEventSchema, RunSchema, RunState, type RunEvent } from "../../src/proto.js";

type DeltaInit = MessageInitShape<typeof MessageDeltaSchema>;
type RunInit = MessageInitShape<typeof RunSchema>;

export const RUN_ID = "run";

export function startedEvent(): RunEvent {
  return create(RunEventSchema, { sequence: 1n, event: { case: "started", value: { runId: RUN_ID, model: "a/b" } } });
}

export function deltaEvent(sequence: number, delta: DeltaInit, firstSequence = 0): RunEvent {
  const event = { case: "delta", value: delta } as const;
  return create(RunEventSchema, { sequence: BigInt(sequence), firstSequence: BigInt(firstSequence), event });
}

export function finishedEvent(sequence: number, run: RunInit): RunEvent {
  const value = { run: { runId: RUN_ID, state: RunState.COMPLETED, lastSequence: BigInt(sequence), ...run } };
  return create(RunEventSchema, { sequence: BigInt(sequence), event: { case: "finished", value } });
}

/** A whole run that says these texts, one event each, and closes its part with the last. */
export function textLog(...texts: string[]): RunEvent[] {
  let offset = 0n;
  const deltas = texts.map((text, index) => {
    const partEnd = index === texts.length - 1 ? PartState.COMPLETE : PartState.UNSPECIFIED;
    const event = deltaEvent(index + 2, { offset, payload: { case: "text", value: text }, partEnd });
    offset += BigInt(Buffer.byteLength(text));
    return event;
  });
  const text = texts.join("");
  const part = { part: { case: "text", value: { text } } as const, state: PartState.COMPLETE };
  return [startedEvent(), ...deltas, finishedEvent(texts.length + 2, { message: { parts: [part] } })];
}
