/** The scenarios in which a run is stopped. */

import { Code } from "@connectrpc/connect";
import {
  CancelReason,
  CancelResponse_Outcome as Outcome,
  FinishReason,
  MessageView,
  PartState,
  RunState,
  type Run,
} from "midstream-client/proto";

import { check, ended, equal, fails, sameList, sameRun, textOf } from "./check.js";
import type { Reader } from "./kit.js";
import { newId, toEnd, until, untilText, type Stage } from "./stage.js";

const STREAMS = 16;
/** Handles of the runtime itself come and go. */
const SPARE_HANDLES = 4;

function cancelled(text: string, cancelReason = CancelReason.REQUESTED) {
  return { state: RunState.CANCELLED, cancelReason, text };
}

export async function cancel_before_start(stage: Stage): Promise<void> {
  const runId = newId("cancel_before_start");
  const kit = stage.kit();
  const reader = stage.start(kit, runId, "silent", { isLeft: true });
  reader.open();
  await reader.leave();
  const run = await kit.get(runId, { isWaiting: true }).catch((error: unknown) => error);
  const failure = kit.failure(run);
  if (failure) {
    equal(failure.reason, "RUN_NOT_FOUND", "the reason");
  } else {
    const { state, cancelReason } = run as Run;
    equal(RunState[state], "CANCELLED", "state");
    check([CancelReason.REQUESTED, CancelReason.CLIENT_GONE].includes(cancelReason), "REQUESTED or CLIENT_GONE");
    equal(textOf(run as Run), "", "the text");
  }
  const seen = await stage.control("/upstream/closed", { run_id: runId });
  equal(seen["open"], 0, "open upstream requests");
  check((seen["requests"] as number) <= 1, "at most one upstream request");
}

export async function cancel_after_begin(stage: Stage): Promise<void> {
  const runId = newId("cancel_after_begin");
  const kit = stage.kit();
  const reader = stage.start(kit, runId, "silent");
  reader.open();
  await stage.control("/upstream/arrived", { run_id: runId });
  const { outcome, run } = await kit.cancel(runId, "too slow");
  equal(Outcome[outcome], "CANCELLED", "outcome");
  ended(run, cancelled(""));
  equal(run.cancel?.reason, "too slow", "cancel.reason");
  equal(run.finishReason, FinishReason.UNSPECIFIED, "finish_reason");
  await stage.closed(runId, 1);
  sameRun(await toEnd(reader), run, "the final run");
}

export async function cancel_after_first_delta(stage: Stage): Promise<void> {
  const runId = newId("cancel_after_first_delta");
  const kit = stage.kit();
  const reader = await stage.firstWord(kit, runId);
  const { outcome, run } = await kit.cancel(runId, "enough");
  equal(Outcome[outcome], "CANCELLED", "outcome");
  ended(run, cancelled("one"));
  sameList(run.message?.parts.map(({ state }) => state) ?? [], [PartState.TRUNCATED], "states of parts");
  equal(run.cancel?.reason, "enough", "cancel.reason");
  equal((await stage.closed(runId, 1))["text_sent"], "one", "text that was sent");
  sameRun(await toEnd(reader), run, "the final run");
  const again = await kit.cancel(runId, "again");
  equal(Outcome[again.outcome], "CANCELLED", "outcome of the second cancel");
  sameRun(again.run, run, "the run of the second cancel");
  sameRun(await kit.get(runId), run, "GetRun");
}

export async function cancel_by_leaving(stage: Stage): Promise<void> {
  const runId = newId("cancel_by_leaving");
  const kit = stage.kit();
  const reader = await stage.firstWord(kit, runId, { isLeft: true });
  const begin = performance.now();
  const left = reader.leave();
  await stage.closed(runId, 1);
  check(kit.kind === "raw" || performance.now() - begin < 2000, "the upstream closed within 2 s");
  await left;
  const reason = kit.kind === "raw" ? CancelReason.CLIENT_GONE : CancelReason.REQUESTED;
  ended(await kit.get(runId, { isWaiting: true }), cancelled("one", reason));
}

export async function cancel_by_id_from_elsewhere(stage: Stage): Promise<void> {
  const runId = newId("cancel_by_id_from_elsewhere");
  const reader = await stage.firstWord(stage.kit(), runId);
  const { outcome, run } = await stage.kit().cancel(runId);
  equal(Outcome[outcome], "CANCELLED", "outcome");
  ended(run, cancelled("one"));
  sameRun(await toEnd(reader), run, "the final run");
  await stage.closed(runId, 1);
}

export async function early_cancel_remembered(stage: Stage): Promise<void> {
  const runId = newId("early_cancel_remembered");
  const kit = stage.kit();
  const { outcome, run } = await kit.cancel(runId, "never");
  equal(Outcome[outcome], "REMEMBERED", "outcome");
  ended(run, cancelled(""));
  equal(run.lastSequence, 2n, "last_sequence");
  equal(Outcome[(await kit.cancel(runId)).outcome], "REMEMBERED", "outcome of the second cancel");
  const reader = stage.start(kit, runId, "hello");
  const final = await toEnd(reader);
  ended(final, cancelled(""));
  equal(final.lastSequence, 2n, "last_sequence of the final run");
  equal(reader.transcript.pieces.length, 0, "deltas");
  equal(final.cancel?.reason, "never", "cancel.reason");
  check(!final.message && !final.startTime && final.attempts === 0, "no message, no start time, no attempts");
  equal(Outcome[(await kit.cancel(runId)).outcome], "CANCELLED", "outcome of the third cancel");
  equal(await stage.requests(runId), 0, "upstream requests");
}

export async function deadline(stage: Stage): Promise<void> {
  const runId = newId("deadline");
  const kit = stage.kit();
  const reader = stage.start(kit, runId, "stall", { timeoutMs: 1000 });
  await untilText(reader, "1 2 3");
  const reason = kit.kind === "raw" ? "" : "DEADLINE_EXCEEDED";
  const failure = await fails(kit, reader.next(), Code.DeadlineExceeded, reason);
  if (kit.kind === "client") equal(failure.partialText, "1 2 3", "the partial");
  const run = await kit.get(runId, { isWaiting: true });
  const isByLeaving = kit.kind === "client" && run.cancelReason === CancelReason.REQUESTED;
  ended(run, cancelled("1 2 3", isByLeaving ? CancelReason.REQUESTED : CancelReason.DEADLINE));
  await stage.closed(runId, 1);
}

export async function tool_call_cut(stage: Stage): Promise<void> {
  const runId = newId("tool_call_cut");
  const kit = stage.kit();
  await until(stage.start(kit, runId, "tool", { hasTool: true }), '{"city"', (transcript) => transcript.toolArguments);
  const { outcome, run } = await kit.cancel(runId);
  equal(Outcome[outcome], "CANCELLED", "outcome");
  equalCall(run, '{"city"', PartState.TRUNCATED);
  check(!(await kit.get(runId, { view: MessageView.REPLAY })).message, "no message to replay");
  equalCall(await kit.get(runId), '{"city"', PartState.TRUNCATED);
  const second = newId("tool_call_cut");
  const reader = stage.start(kit, second, "tool", { hasTool: true });
  reader.open();
  await stage.open(second, "half", "end");
  const whole = await toEnd(reader);
  equal(whole.finishReason, FinishReason.TOOL_CALLS, "finish_reason");
  equal(RunState[whole.state], "COMPLETED", "state");
  equalCall(whole, '{"city": "Paris"}', PartState.COMPLETE);
}

export async function leak(stage: Stage): Promise<void> {
  const kit = stage.kit();
  const once = async (): Promise<string> => {
    const runId = newId("leak");
    const reader: Reader = stage.start(kit, runId, "stall", { isLeft: true });
    await untilText(reader, "1 2 3");
    await reader.leave();
    return runId;
  };
  const many = async (count: number): Promise<string> => {
    let left = count;
    let last = "";
    const work = async () => {
      while (left-- > 0) last = await once();
    };
    await Promise.all(Array.from({ length: STREAMS }, work));
    return last;
  };
  await many(50);
  await stage.control("/leaks/mark");
  const before = process.getActiveResourcesInfo().length;
  const last = await many(1000);
  const { leaks } = await stage.control("/leaks/check");
  sameList(leaks as unknown[], [], "leaks");
  const after = process.getActiveResourcesInfo();
  check(after.length <= before + SPARE_HANDLES, `${before} active handles, came ${after.join(" ")}`);
  const reason = kit.kind === "raw" ? CancelReason.CLIENT_GONE : CancelReason.REQUESTED;
  ended(await kit.get(last, { isWaiting: true }), cancelled("1 2 3", reason));
}

function equalCall(run: Run | undefined, text: string, state: PartState): void {
  const parts = run?.message?.parts ?? [];
  equal(parts.length, 1, "parts");
  const [part] = parts;
  check(part?.part.case === "toolCall", "a tool call");
  const { id, name, arguments: given } = part.part.value;
  sameList([id, name, given], ["call_1", "get_weather", text], "id, name and arguments");
  equal(PartState[part.state], PartState[state], "state of the part");
}
