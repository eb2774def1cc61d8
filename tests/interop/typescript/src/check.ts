/** Checks that say what was expected and what came. */

import { equals } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { CancelReason, ErrorInfoSchema, RunSchema, RunState, type Run } from "midstream-client/proto";

import type { Failure, Kit } from "./kit.js";

export class CheckFailed extends Error {}

export function check(isSo: boolean, what: string): asserts isSo {
  if (!isSo) throw new CheckFailed(`expected: ${what}`);
}

export function equal<T>(actual: T, expected: T, what: string): void {
  if (!Object.is(actual, expected)) throw new CheckFailed(`${what}: expected ${show(expected)}, came ${show(actual)}`);
}

export function sameList<T>(actual: readonly T[], expected: readonly T[], what: string): void {
  equal(JSON.stringify(actual), JSON.stringify(expected), what);
}

export function sameRun(actual: Run | undefined, expected: Run | undefined, what: string): void {
  check(actual !== undefined && expected !== undefined, `${what}: two runs`);
  if (equals(RunSchema, actual, expected)) return;
  const fields = RunSchema.fields.map((field) => field.localName as keyof Run);
  const differing = fields.filter((name) => show(actual[name]) !== show(expected[name]));
  throw new CheckFailed(`${what}: runs differ in ${differing.join(", ")}`);
}

/** How a run is to have ended. */
export interface Ending {
  readonly state: RunState;
  readonly cancelReason?: CancelReason;
  readonly text: string;
}

export function ended(run: Run | undefined, ending: Ending): asserts run is Run {
  check(run !== undefined, "a run");
  equal(RunState[run.state], RunState[ending.state], "state");
  equal(textOf(run), ending.text, "text of the run");
  equal(CancelReason[run.cancelReason], CancelReason[ending.cancelReason ?? CancelReason.UNSPECIFIED], "cancel_reason");
}

export function textOf(run: Run): string {
  return (run.message?.parts ?? []).map(({ part }) => (part.case === "text" ? part.value.text : "")).join("");
}

/** The reasons of a run that failed, with their domains. */
export function reasonOf(run: Run): string {
  const infos = (run.error?.details ?? []).map((detail) => anyUnpack(detail, ErrorInfoSchema));
  return infos.map((info) => `${info?.domain} ${info?.reason}`).join(", ");
}

/** Waits for the failure with this status and reason. */
export async function fails(kit: Kit, work: Promise<unknown>, code: number, reason: string): Promise<Failure> {
  try {
    await work;
  } catch (error) {
    const failure = kit.failure(error);
    if (!failure) throw error;
    equal(`${failure.code} ${failure.reason}`, `${code} ${reason}`, "status and reason");
    return failure;
  }
  throw new CheckFailed(`expected a failure with ${reason}, came none`);
}

function show(value: unknown): string {
  const text =
    JSON.stringify(value, (_, each: unknown) => (typeof each === "bigint" ? `${each}` : each)) ?? "undefined";
  return text.length > 120 ? `${text.slice(0, 120)}… (${text.length} characters)` : text;
}
