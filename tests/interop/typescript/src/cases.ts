/** The scenarios in which nothing is stopped or lost, as scenarios.json says them, for both kinds. */

import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code } from "@connectrpc/connect";
import { RunFailed } from "midstream-client";
import { UpstreamTruncated } from "midstream-client/errors";
import {
  CancelReason,
  ConversationPolicy,
  FinishReason,
  PartState,
  RunState,
  UsageSource,
  type Run,
} from "midstream-client/proto";

import { check, ended, equal, fails, reasonOf, sameList, sameRun, textOf } from "./check.js";
import { ClientKit } from "./client-kit.js";
import { RawKit, type RawReader } from "./raw-kit.js";
import { newId, toEnd, until, untilText, type Stage } from "./stage.js";

const HELLO = { state: RunState.COMPLETED, text: "Hello, world" };
const WORDS = { state: RunState.COMPLETED, text: "one two three" };
const LARGE = { state: RunState.COMPLETED, text: "0123456789abcdef".repeat(196_000) };
const UNICODE_HEX =
  "4772c3bcc39f652c20e4b896e7958c2120f09f91a9e2808df09f91a9e2808df09f91a7e2808df09f91a62065cc8120d7a9d79cd795d79d20" +
  "e280aee280a8c285efbbbf09225c0a20f09d849ef09f87a9f09f87aa2e";

export async function complete(stage: Stage): Promise<void> {
  const runId = newId("complete");
  const kit = stage.kit();
  const run = await stage.complete(kit, runId, "hello");
  ended(run, HELLO);
  equal(run.runId, runId, "run_id");
  equal(run.finishReason, FinishReason.STOP, "finish_reason");
  equal(run.model, stage.model("hello"), "model");
  sameList(partStates(run), [PartState.COMPLETE], "states of parts");
  equal(run.usage?.output?.value, 3n, "output tokens");
  equal(run.usage?.output?.source, UsageSource.UPSTREAM_FINAL, "source of the output tokens");
  equal(run.attempts, 1, "attempts");
  sameRun(await kit.get(runId), run, "GetRun");
  await stage.closed(runId, 1);
}

export async function server_made_id(stage: Stage): Promise<void> {
  const kit = stage.kit();
  check(kit instanceof RawKit, "a raw runner");
  const { reader, id } = kit.startNameless(stage.model("hello"), "nobody");
  const run = await toEnd(reader);
  check(id() !== "", "an id in the initial metadata");
  equal(run.runId, id(), "run_id of the final run");
  equal(reader.started?.runId, id(), "run_id of RunStarted");
}

export async function time_limit(stage: Stage): Promise<void> {
  const runId = newId("time_limit");
  const kit = stage.kit();
  const reader = stage.start(kit, runId, "stall", { totalMs: 300 });
  const run = await toEnd(reader);
  ended(run, { state: RunState.CANCELLED, cancelReason: CancelReason.TIME_LIMIT, text: "1 2 3" });
  sameList(partStates(run), [PartState.TRUNCATED], "states of parts");
  const total = reader.started?.limits?.total;
  equal(total && durationMs(total), 300, "limits.total of RunStarted");
  await stage.closed(runId, 1);
}

export async function failed_run(stage: Stage): Promise<void> {
  const runId = newId("failed_run");
  const kit = stage.kit();
  const run = await stage.complete(kit, runId, "truncated");
  ended(run, { state: RunState.FAILED, text: "1 2 3" });
  equal(run.finishReason, FinishReason.UNSPECIFIED, "finish_reason");
  equal(reasonOf(run), "midstream.v1 UPSTREAM_TRUNCATED", "the reason");
  if (!(kit instanceof ClientKit)) return;
  const thrown = await kit.client
    .watch(runId)
    .result({ raiseForFailure: true })
    .catch((error: unknown) => error);
  check(
    thrown instanceof UpstreamTruncated && thrown instanceof RunFailed,
    `UpstreamTruncated, came ${String(thrown)}`,
  );
  sameRun(thrown.run, run, "the run of the error");
}

export async function slow_reader(stage: Stage): Promise<void> {
  const runId = newId("slow_reader");
  const kit = stage.kit();
  const reader = stage.start(kit, runId, "large");
  reader.open();
  if (kit.kind === "raw") await reader.next();
  await stage.control("/upstream/arrived", { run_id: runId });
  const finished = await stage.kit().get(runId, { isWaiting: true });
  ended(finished, LARGE);
  sameRun(await toEnd(reader), finished, "the final run and GetRun");
}

export async function large_message(stage: Stage): Promise<void> {
  const runId = newId("large_message");
  const kit = stage.kit();
  const run = await stage.complete(kit, runId, "large");
  ended(run, LARGE);
  sameRun(await kit.get(runId), run, "GetRun");
  const watched = kit.watch(runId, { fromSnapshot: true });
  sameRun(await toEnd(watched), run, "the final run of a watch");
  equal(watched.transcript.text, LARGE.text, "the text of the snapshot");
}

export async function unicode_everywhere(stage: Stage): Promise<void> {
  const runId = newId("unicode_everywhere");
  const kit = stage.kit();
  const unicode = Buffer.from(UNICODE_HEX, "hex").toString();
  const text = `${runId}\n${unicode}`;
  const run = await stage.complete(kit, runId, "unicode", { text, labels: { k: "ключ 🔑" } });
  equal(Buffer.from(textOf(run)).toString("hex"), UNICODE_HEX, "the text in UTF-8");
  equal(run.labels["k"], "ключ 🔑", "the label");
  equal((await stage.control("/upstream/see", { run_id: runId }))["prompt"], text, "the prompt");
  const second = newId("unicode_everywhere");
  await untilText(stage.start(kit, second, "stall"), "1 2 3");
  const { run: stopped } = await kit.cancel(second, "стоп ✋");
  equal(stopped?.cancel?.reason, "стоп ✋", "the reason of the cancel");
}

export async function reasoning(stage: Stage): Promise<void> {
  const runId = newId("reasoning");
  const reader = stage.start(stage.kit(), runId, "thinking");
  await until(reader, "First, think.", (transcript) => transcript.reasoning);
  equal(reader.transcript.text, "", "the text so far");
  await stage.open(runId, "answer");
  const run = await toEnd(reader);
  ended(run, { state: RunState.COMPLETED, text: "The answer." });
  sameList(run.message?.parts.map(({ part }) => part.case) ?? [], ["reasoning", "text"], "parts");
  sameList(partStates(run), [PartState.COMPLETE, PartState.COMPLETE], "states of parts");
  equal(reader.transcript.reasoning, "First, think.", "the reasoning");
}

export async function duplicate_start(stage: Stage): Promise<void> {
  const runId = newId("duplicate_start");
  const first = await stage.firstWord(stage.kit(), runId);
  const second = stage.start(stage.kit(), runId, "words");
  await untilText(second, "one");
  await stage.open(runId, "two", "three", "end");
  const [run, same] = await Promise.all([toEnd(first), toEnd(second)]);
  ended(run, WORDS);
  sameRun(same, run, "the second start's run");
  sameRun(await stage.complete(stage.kit(), runId, "words"), run, "the third start's run");
  equal(await stage.requests(runId), 1, "upstream requests");
}

export async function conflicting_start(stage: Stage): Promise<void> {
  const runId = newId("conflicting_start");
  const kit = stage.kit();
  const run = await stage.complete(kit, runId, "hello");
  const conflict = stage.complete(kit, runId, "hello", { text: `${runId}\nother` });
  await fails(kit, conflict, Code.AlreadyExists, "RUN_ID_CONFLICT");
  sameRun(await kit.get(runId), run, "GetRun");
  equal(await stage.requests(runId), 1, "upstream requests");
}

export async function watch_after_end(stage: Stage): Promise<void> {
  const runId = newId("watch_after_end");
  const kit = stage.kit();
  const run = await stage.complete(kit, runId, "hello");
  const last = Number(run.lastSequence);
  sameRun(await toEnd(kit.watch(runId)), run, "a watch from the start");
  const tail = kit.watch(runId, { afterSequence: last - 1 });
  sameRun(await toEnd(tail), run, "a watch of the end");
  equal(tail.transcript.pieces.length, 0, "deltas after the last but one sequence");
  const after = kit.watch(runId, { afterSequence: last });
  check(!(await after.next()), "no events after the last sequence");
  if (kit.kind === "client") sameRun(await after.final(), run, "the result of a watch after the end");
  await fails(kit, kit.watch(runId, { afterSequence: last + 5 }).next(), Code.OutOfRange, "CURSOR_AHEAD");
}

export async function watch_from_snapshot(stage: Stage): Promise<void> {
  const runId = newId("watch_from_snapshot");
  const reader = await stage.firstWord(stage.kit(), runId);
  await stage.open(runId, "two");
  await untilText(reader, "one two");
  const watched = stage.kit().watch(runId, { fromSnapshot: true });
  await untilText(watched, "one two");
  check(watched.transcript.last >= 2, "a sequence of at least 2");
  if (watched.transcript.pieces.length === 0)
    equal((watched as RawReader).events[0]?.event.case, "snapshot", "first event");
  const observer = stage.kit().watch(runId);
  await untilText(observer, "one two");
  await observer.leave();
  await stage.open(runId, "three", "end");
  const before = watched.transcript.last;
  ended(await toEnd(watched), WORDS);
  const later = watched.transcript.pieces.filter((piece) => piece.sequence > before);
  equal(later.map(({ payload }) => (payload.case === "text" ? payload.value : "")).join(""), " three", "text after it");
  ended(await toEnd(reader), WORDS);
}

export async function unknown_run(stage: Stage): Promise<void> {
  const runId = newId("unknown_run");
  const kit = stage.kit();
  for (const work of [() => kit.get(runId), () => kit.watch(runId).next(), () => kit.delete(runId)]) {
    await fails(kit, work(), Code.NotFound, "RUN_NOT_FOUND");
  }
  await fails(kit, kit.start(runId, "nowhere/x", { text: runId }).next(), Code.NotFound, "MODEL_NOT_FOUND");
  await fails(kit, kit.get(runId), Code.NotFound, "RUN_NOT_FOUND");
}

export async function invalid_argument(stage: Stage): Promise<void> {
  const kit = stage.kit();
  const wrong = stage.start(kit, "not an id", "hello", { temperature: 9, labels: { k: "x".repeat(257) } });
  const failure = await fails(kit, wrong.next(), Code.InvalidArgument, "INVALID_REQUEST");
  const fields = failure.fields.map(({ field }) => field).sort();
  sameList(fields, ['labels["k"]', "parameters.temperature", "run_id"], "fields");
  check(
    failure.fields.every(({ description }) => description !== ""),
    "descriptions",
  );
}

export async function list_pages(stage: Stage): Promise<void> {
  const kit = stage.kit();
  const ids = Array.from({ length: 5 }, () => newId("list_pages"));
  const labels = { group: ids[0] as string };
  for (const runId of ids) await stage.complete(kit, runId, "hello", { labels });
  const runs = kit instanceof RawKit ? await allPages(kit, labels) : await kit.list(labels, 2);
  sameList(
    runs.map(({ runId }) => runId),
    ids.toReversed(),
    "runs",
  );
  check(
    runs.every((run) => run.state === RunState.COMPLETED && !run.message),
    "COMPLETED runs without messages",
  );
  equal((await kit.list(labels, 2, RunState.CANCELLED)).length, 0, "cancelled runs");
}

async function allPages(kit: RawKit, labels: Record<string, string>): Promise<Run[]> {
  const first = await kit.page(labels, 2, "");
  const second = await kit.page(labels, 2, first.nextPageToken);
  const third = await kit.page(labels, 2, second.nextPageToken);
  sameList(
    [first, second, third].map(({ runs }) => runs.length),
    [2, 2, 1],
    "sizes of pages",
  );
  equal(third.nextPageToken, "", "the last token");
  const other = kit.page({ group: "other" }, 2, first.nextPageToken);
  await fails(kit, other, Code.InvalidArgument, "INVALID_REQUEST");
  return [...first.runs, ...second.runs, ...third.runs];
}

export async function delete_and_expired(stage: Stage): Promise<void> {
  const runId = newId("delete_and_expired");
  const kit = stage.kit();
  await stage.complete(kit, runId, "hello");
  await kit.delete(runId);
  for (const work of [() => kit.get(runId), () => kit.watch(runId).next(), () => kit.delete(runId)]) {
    await fails(kit, work(), Code.NotFound, "RUN_EXPIRED");
  }
  await fails(kit, stage.complete(kit, runId, "hello"), Code.FailedPrecondition, "RUN_EXPIRED");
  equal(await stage.requests(runId), 1, "upstream requests");
  const second = newId("delete_and_expired");
  await untilText(stage.start(kit, second, "stall"), "1 2 3");
  await fails(kit, kit.delete(second), Code.FailedPrecondition, "RUN_LIVE");
  const { run } = await kit.cancel(second);
  ended(run, { state: RunState.CANCELLED, cancelReason: CancelReason.REQUESTED, text: "1 2 3" });
}

export async function supersede(stage: Stage): Promise<void> {
  const [first, second, third] = [newId("supersede"), newId("supersede"), newId("supersede")];
  const conversationId = `c-${first}`;
  const kit = stage.kit();
  const reader = await stage.firstWord(kit, first, { conversationId });
  const refused = stage.complete(kit, second, "hello", { conversationId, onConflict: ConversationPolicy.REJECT });
  await fails(kit, refused, Code.FailedPrecondition, "CONVERSATION_BUSY");
  const run = await stage.complete(kit, third, "hello", { conversationId, onConflict: ConversationPolicy.SUPERSEDE });
  ended(run, HELLO);
  sameList(run.supersededRunIds, [first], "superseded runs");
  const old = await toEnd(reader);
  ended(old, { state: RunState.CANCELLED, cancelReason: CancelReason.SUPERSEDED, text: "one" });
  equal(old.supersededByRunId, third, "superseded_by_run_id");
  await stage.closed(first, 1);
}

export async function models(stage: Stage): Promise<void> {
  const { models: all, unreachableUpstreams } = await stage.kit().models();
  const hello = all.find(({ name }) => name === stage.model("hello"));
  sameList([hello?.upstream, hello?.dialect], ["sim", "openai-chat"], "upstream and dialect");
  equal(unreachableUpstreams.length, 0, "unreachable upstreams");
}

export async function forward_rule(stage: Stage): Promise<void> {
  const kit = stage.kit("scripted_target");
  const reader = kit.start(newId("forward_rule"), "any/model", { text: "any" });
  const run = await toEnd(reader);
  const { pieces, text, last } = reader.transcript;
  sameList(
    pieces.flatMap(({ payload }) => (payload.case === "text" ? [payload.value] : [])),
    ["ab", "cd"],
    "texts",
  );
  equal(text, "abcd", "the text");
  equal(last <= 6 && Number(run.lastSequence), 6, "the last sequence");
  equal(run.message?.parts.length, 3, "parts");
  if (kit.kind === "client") return;
  const { events } = reader as RawReader;
  equal(events.length, 6, "events");
  equal(events[2]?.event.case, undefined, "the kind of the third event");
  equal(events[3]?.event.case === "delta" && events[3].event.value.payload.case, undefined, "the fourth's payload");
}

function partStates(run: Run): PartState[] {
  return (run.message?.parts ?? []).map(({ state }) => state);
}
