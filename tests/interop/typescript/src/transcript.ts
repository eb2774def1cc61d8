/** What was read of a run, and whether it is exact. */

import type { MessageDelta, Part, Run } from "midstream-client/proto";

import { check, equal } from "./check.js";

/** A delta as both kinds show it. */
export interface Piece {
  readonly firstSequence: number;
  readonly sequence: number;
  readonly partIndex: number;
  readonly offset: number;
  readonly payload: MessageDelta["payload"];
}

/** `isDense` where every entry is seen, so that no sequence may be missing. */
export class Transcript {
  readonly pieces: Piece[] = [];
  text = "";
  reasoning = "";
  toolArguments = "";
  last: number;
  readonly #begin: number;
  readonly #isDense: boolean;
  readonly #payloads = new Map<number, string>();
  #mayLackPrefix: boolean;

  constructor(begin: number, isDense: boolean) {
    this.#begin = begin;
    this.#mayLackPrefix = begin > 0;
    this.last = begin;
    this.#isDense = isDense;
  }

  /** An entry of the log. */
  entry(firstSequence: number, sequence: number): void {
    const isNext = this.#isDense ? firstSequence === this.last + 1 : firstSequence > this.last;
    check(isNext && firstSequence <= sequence, `entry ${firstSequence}..${sequence} after ${this.last}`);
    this.last = sequence;
  }

  /** All so far, in place of the entries. */
  snapshot(run: Run | undefined, sequence: number): void {
    check(this.last === 0, "a snapshot is the first event");
    this.last = sequence;
    for (const [index, part] of (run?.message?.parts ?? []).entries()) {
      this.#payloads.set(index, payloadOf(part));
      this.#say(part.part.case, payloadOf(part));
    }
  }

  delta(piece: Piece): void {
    this.pieces.push(piece);
    const { payload, partIndex } = piece;
    if (payload.case === undefined || payload.case === "blob") return;
    const said = payload.case === "toolCall" ? payload.value.arguments : payload.value;
    const before = this.#payloads.get(partIndex);
    const isKnown = before !== undefined || !this.#mayLackPrefix;
    if (isKnown) equal(piece.offset, Buffer.byteLength(before ?? ""), `offset of part ${partIndex}`);
    this.#payloads.set(partIndex, (before ?? "") + said);
    this.#say(payload.case, said);
  }

  /** Fails unless all of it, and nothing else, is in the final run. */
  checkFinal(final: Run): void {
    if (this.#isDense) equal(this.last, Number(final.lastSequence), "the last sequence");
    check(this.last <= Number(final.lastSequence), "no sequence after the last");
    if (this.#begin > 0) return;
    const parts = final.message?.parts ?? [];
    for (const [index, part] of parts.entries()) {
      if (part.part.case) equal(this.#payloads.get(index) ?? "", payloadOf(part), `what was read of part ${index}`);
    }
    check(
      [...this.#payloads.keys()].every((index) => index < parts.length),
      "no part that is not in the final run",
    );
  }

  #say(kind: string | undefined, said: string): void {
    if (kind === "text") this.text += said;
    if (kind === "reasoning") this.reasoning += said;
    if (kind === "toolCall") this.toolArguments += said;
  }
}

function payloadOf({ part }: Part): string {
  switch (part.case) {
    case "text":
    case "reasoning":
    case "refusal":
      return part.value.text;
    case "toolCall":
      return part.value.arguments;
    default:
      return "";
  }
}
