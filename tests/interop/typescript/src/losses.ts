/** The scenarios in which connections or servers are lost. */

import { Code } from "@connectrpc/connect";
import { PartState, RunState } from "midstream-client/proto";

import { check, ended, equal, fails, reasonOf, sameList, sameRun } from "./check.js";
import { newId, toEnd, untilText, type Stage } from "./stage.js";

const LETTERS = "abcdéfgh";
/** A server that drains is away for longer than the grace. */
const DRAIN_MS = 30_000;
const RETRY_MS = 100;

export async function resume_at_every_event(stage: Stage): Promise<void> {
  const runId = newId("resume_at_every_event");
  const kit = stage.kit("proxy_target");
  let cuts = 0;
  const cut = async () => {
    cuts += (await stage.control("/proxy/cut"))["connections"] as number;
  };
  const reader = stage.start(kit, runId, "letters");
  reader.open();
  await stage.control("/upstream/reached", { run_id: runId, gate: "1" });
  await cut();
  for (let count = 1; count <= LETTERS.length; count += 1) {
    await stage.open(runId, `${count}`);
    await untilText(reader, LETTERS.slice(0, count));
    await cut();
  }
  await stage.open(runId, "end");
  await cut();
  const run = await toEnd(reader);
  ended(run, { state: RunState.COMPLETED, text: LETTERS });
  sameList(run.message?.parts.map(({ state }) => state) ?? [], [PartState.COMPLETE], "states of parts");
  equal(await stage.requests(runId), 1, "upstream requests");
  if (kit.kind === "client") check(cuts >= 9, `at least 9 connections that were cut, came ${cuts}`);
}

export async function server_restart_midstream(stage: Stage): Promise<void> {
  const runId = newId("server_restart_midstream");
  const kit = stage.kit();
  const reader = await stage.firstWord(kit, runId);
  await stage.control("/server/kill");
  const run = await toEnd(reader);
  ended(run, { state: RunState.FAILED, text: "one" });
  equal(reasonOf(run), "midstream.v1 OWNER_LOST", "the reason");
  sameList(run.message?.parts.map(({ state }) => state) ?? [], [PartState.TRUNCATED], "states of parts");
  sameRun(await kit.get(runId), run, "GetRun");
  await stage.closed(runId, 1);
}

export async function drain(stage: Stage): Promise<void> {
  const [runId, second] = [newId("drain"), newId("drain")];
  const kit = stage.kit("target", DRAIN_MS);
  const reader = await stage.firstWord(kit, runId);
  await stage.control("/server/drain");
  const refused = stage.start(kit, second, "hello");
  const followed = kit.kind === "client" ? toEnd(refused) : undefined;
  followed?.catch(() => undefined); // awaited below
  if (kit.kind === "raw") await fails(kit, oneTry(stage, second), Code.Unavailable, "DRAINING");
  const seen = await stage.kit().get(runId);
  ended(seen, { state: RunState.RUNNING, text: "one" });
  await stage.open(runId, "two", "three", "end");
  const run = await toEnd(reader);
  ended(run, { state: RunState.COMPLETED, text: "one two three" });
  await stage.control("/server/start");
  ended(await (followed ?? tryUntilStarted(stage, second)), { state: RunState.COMPLETED, text: "Hello, world" });
  sameRun(await kit.get(runId), run, "GetRun after the restart");
  equal(await stage.requests(second), 1, "upstream requests of the second run");
}

function oneTry(stage: Stage, runId: string) {
  return stage.complete(stage.kit(), runId, "hello");
}

async function tryUntilStarted(stage: Stage, runId: string) {
  const kit = stage.kit();
  for (;;) {
    try {
      return await stage.complete(kit, runId, "hello");
    } catch (error) {
      if (kit.failure(error)?.code !== Code.Unavailable) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}
