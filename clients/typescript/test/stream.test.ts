/** A run that is followed over real connections: what is sent, what is given, what is thrown. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";

import { create, equals } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import { RunIdConflict } from "../src/errors.js";
import {
  Client,
  ConnectionLost,
  DeadlineExceeded,
  RunState,
  StreamClosed,
  StreamGapError,
  type ClientOptions,
  type Delta,
} from "../src/index.js";
import { RunSchema, type RunEvent } from "../src/proto.js";
import { RUN_ID, textLog } from "./support/events.js";
import { refusal, ScriptedServer } from "./support/scripted-server.js";
import { test, type TestContext } from "./support/test.js";

const LOG = textLog("Hel", "lo", " wörld", "!");
const TEXT = "Hello wörld!";
const FINAL = (() => {
  const { event } = LOG.at(-1) as RunEvent;
  assert.ok(event.case === "finished" && event.value.run);
  return event.value.run;
})();
const RUN = { runId: RUN_ID };

/** A server, and a client of it; both are closed after the test. */
async function made(context: TestContext, log = LOG, options: ClientOptions = {}) {
  const server = await ScriptedServer.serving(log);
  const client = new Client(server.target, options);
  server.run = FINAL;
  context.after(async () => {
    client.close();
    await server[Symbol.asyncDispose]();
  });
  return { server, client };
}

async function read(stream: AsyncIterable<Delta>): Promise<Delta[]> {
  const deltas: Delta[] = [];
  for await (const delta of stream) deltas.push(delta);
  return deltas;
}

test("a stream gives the deltas and the run", async (context) => {
  const { server, client } = await made(context);
  const run = client.generate("a/b", "hi", RUN);

  const deltas = await read(run);

  assert.deepEqual(
    deltas.map((each) => [each.text, each.offset, each.sequence]),
    [
      ["Hel", 0, 2],
      ["lo", 3, 3],
      [" wörld", 5, 4],
      ["!", 12, 5],
    ],
  );
  assert.deepEqual([run.text, run.lastSequence, run.started?.model], [TEXT, 6, "a/b"]);
  assert.ok(equals(RunSchema, await run.result(), FINAL));
  assert.deepEqual([server.left, server.cancels.length], [0, 0]);
});

test("leaving a loop stops the run, over a connection of its own", async (context) => {
  const { server, client } = await made(context);
  server.parkAfter = 3;
  const run = client.generate("a/b", "hi", RUN);

  for await (const { text } of run) if (text === "lo") break;

  assert.deepEqual(
    server.cancels.map((each) => [each.runId, each.wait?.seconds]),
    [[RUN_ID, 0n]],
  );
  await server.until(() => server.left === 1);
  const [streams, control] = [server.ports.get("Generate"), server.ports.get("Cancel")];
  assert.deepEqual([streams?.size, control?.size], [1, 1]);
  assert.notDeepEqual(streams, control);
  assert.equal(run.text, "Hello");
  assert.ok(equals(RunSchema, await run.result(), FINAL));
  assert.equal(run.text, TEXT);
});

test("the end of an await using block stops the run", async (context) => {
  const { server, client } = await made(context);
  server.parkAfter = 2;
  {
    await using run = client.generate("a/b", "hi", RUN);
    await run.next();
  }

  assert.equal(server.cancels.length, 1);
  await server.until(() => server.left === 1);
});

test("an abort stops the run and throws its reason", async (context) => {
  const { server, client } = await made(context);
  server.parkAfter = 2;
  const controller = new AbortController();
  const run = client.generate("a/b", "hi", { ...RUN, signal: controller.signal });
  await run.next();

  const turn = run.next();
  controller.abort(new Error("stop pressed"));

  await assert.rejects(turn, /stop pressed/);
  await run.close();
  assert.equal(server.cancels.length, 1);
  assert.equal(run.text, "Hel");
});

test("a signal that was aborted before sends nothing", async (context) => {
  const { server, client } = await made(context);
  const run = client.generate("a/b", "hi", { signal: AbortSignal.abort() });

  await assert.rejects(run.next(), { name: "AbortError" });

  assert.deepEqual([server.requests.length, server.cancels.length], [0, 0]);
});

test("a signal keeps nothing of the streams that it was given to", async (context) => {
  const { client } = await made(context);
  const { signal } = new AbortController();

  for (let index = 0; index < 3; index += 1) await read(client.generate("a/b", "hi", { ...RUN, signal }));
  for await (const _ of client.generate("a/b", "hi", { ...RUN, signal })) break;

  assert.equal(getEventListeners(signal, "abort").length, 0);
});

test("leaving a watch without a claim stops nothing, and one with a claim does", async (context) => {
  const { server, client } = await made(context);
  server.parkAfter = 2;

  for await (const _ of client.watch(RUN_ID)) break;
  assert.equal(server.cancels.length, 0);

  for await (const _ of client.watch(RUN_ID, { claim: true })) break;
  assert.equal(server.cancels.length, 1);
});

test("a refusal is a typed error, without a retry or a cancel", async (context) => {
  const { server, client } = await made(context);
  server.refusals.push(refusal(Code.AlreadyExists, "RUN_ID_CONFLICT"));

  await assert.rejects(read(client.generate("a/b", "hi", RUN)), (error) => {
    assert.ok(error instanceof RunIdConflict);
    assert.deepEqual([error.runId, error.partial], [RUN_ID, undefined]);
    return true;
  });

  assert.deepEqual([server.requests.length, server.cancels.length], [1, 0]);
});

test("a refusal that nobody read is not cancelled either", async (context) => {
  const { server, client } = await made(context);
  server.refusals.push(refusal(Code.AlreadyExists, "RUN_ID_CONFLICT"));
  const run = client.generate("a/b", "hi", RUN).open();
  await server.until(() => server.requests.length === 1);
  for (let index = 0; index < 5; index += 1) await client.models(); // the refusal was sent before, and has come by then

  await run.close();

  assert.equal(server.cancels.length, 0);
});

test("a run whose first answer was lost is stopped by leaving, as it may exist", async (context) => {
  const { server, client } = await made(context);
  server.cuts.push(0);
  const run = client.generate("a/b", "hi", RUN).open();
  await server.until(() => server.requests.length === 1);
  for (let index = 0; index < 5; index += 1) await client.models(); // the loss is known by then

  await run.close();

  assert.equal(server.cancels.length, 1);
});

test("a connection that is lost at every event is resumed without a seam", async (context) => {
  const { server, client } = await made(context);
  server.cuts.push(0, 1, 1, 1, 1, 1);
  const run = client.generate("a/b", "hi", RUN);

  const deltas = await read(run);

  assert.deepEqual(
    deltas.map((each) => each.text),
    ["Hel", "lo", " wörld", "!"],
  );
  assert.deepEqual(
    deltas.map((each) => each.sequence),
    [2, 3, 4, 5],
  );
  const watches = server.requests.filter((each) => each.$typeName === "midstream.v1.WatchRunRequest");
  assert.ok(watches.length >= 4 && watches.every((each) => each.claim), `${watches.length}`);
  assert.ok(equals(RunSchema, await run.result(), FINAL));
});

test("a server that drains is asked again", async (context) => {
  const { server, client } = await made(context);
  server.refusals.push(refusal(Code.Unavailable, "DRAINING"), refusal(Code.Unavailable, "STORE_UNAVAILABLE"));

  const deltas = await read(client.generate("a/b", "hi", RUN));

  assert.equal(deltas.length, 4);
  assert.equal(server.requests.length, 3);
});

test("a server that is gone is given up after the grace, with the partial", async (context) => {
  const { server, client } = await made(context, LOG, { resumeMs: 150 });
  server.parkAfter = 2;
  const run = client.generate("a/b", "hi", RUN);
  await run.next();
  await server[Symbol.asyncDispose]();
  context.mock.method(server, Symbol.asyncDispose as never, async () => undefined);

  await assert.rejects(run.next(), (error) => {
    assert.ok(error instanceof ConnectionLost);
    assert.deepEqual([error.runId, error.lastSequence, error.partial?.parts.length], [RUN_ID, 2, 1]);
    return true;
  });
});

test("a stream that ends before the run is resumed", async (context) => {
  const { server, client } = await made(context, LOG.slice(0, 3));
  server.run = create(RunSchema, { state: RunState.RUNNING, lastSequence: 3n });
  const run = client.generate("a/b", "hi", RUN);
  await run.next();
  await run.next();

  const turn = run.next();
  await server.until(() => server.requests.length > 1);
  const part = { case: "text", value: { text: "Hello" } } as const;
  server.run = create(RunSchema, { state: RunState.CANCELLED, lastSequence: 3n, message: { parts: [{ part }] } });

  assert.deepEqual(await turn, { done: true, value: undefined });
  assert.equal((await run.result()).state, RunState.CANCELLED);
});

test("a gap is told, and stops the run", async (context) => {
  const { server, client } = await made(
    context,
    LOG.filter((each) => each.sequence !== 3n),
  );

  await assert.rejects(read(client.generate("a/b", "hi", RUN)), StreamGapError);

  assert.equal(server.cancels.length, 1);
});

test("an ending that does not hold what was received is told, though the sequence is right", async (context) => {
  const { server, client } = await made(context, LOG.slice(0, 3));
  const part = { case: "text", value: { text: "Goodbye" } } as const;
  server.run = create(RunSchema, { state: RunState.FAILED, lastSequence: 3n, message: { parts: [{ part }] } });

  await assert.rejects(read(client.generate("a/b", "hi", RUN)), (error) => {
    assert.ok(error instanceof StreamGapError);
    assert.deepEqual([error.runId, error.lastSequence], [RUN_ID, 3]);
    return true;
  });
});

test("an abort does not wait for the answer to whether the run has ended", async (context) => {
  const { server, client } = await made(context, LOG.slice(0, 3));
  server.holdsGets = true;
  const controller = new AbortController();
  const reading = read(client.generate("a/b", "hi", { ...RUN, signal: controller.signal }));
  await server.until(() => server.heldGets === 1);

  controller.abort(new Error("stop pressed"));

  await assert.rejects(reading, /stop pressed/);
  assert.equal(server.cancels.length, 1);
});

test("the deadline does not wait for that answer, and nothing goes on asking", async (context) => {
  const { server, client } = await made(context, LOG.slice(0, 3));
  server.holdsGets = true;
  const begin = performance.now();

  await assert.rejects(read(client.generate("a/b", "hi", { ...RUN, timeoutMs: 500 })), DeadlineExceeded);

  assert.ok(performance.now() - begin < 5_000, `${performance.now() - begin} ms`);
  assert.equal(server.gets, 1);
  await server.until(() => server.heldGets === 0);
});

test("a stream that was closed before it was opened sends nothing", async (context) => {
  const { server, client } = await made(context);
  const run = client.generate("a/b", "hi", RUN);
  await run.close();

  assert.throws(() => run.open(), StreamClosed);
  await assert.rejects(run.next(), StreamClosed);
  assert.equal(server.requests.length, 0);
});

test("a wait for an ending does not hurry a server that answers early", async (context) => {
  const { server, client } = await made(context);
  server.run = create(RunSchema, { state: RunState.RUNNING });

  const run = await client.get(RUN_ID, { waitMs: 250 });

  assert.equal(run.state, RunState.RUNNING);
  assert.ok(server.gets >= 2 && server.gets <= 5, `${server.gets} calls`);
});

test("turns that are asked for at once are taken in order", async (context) => {
  const { client } = await made(context);
  const run = client.generate("a/b", "hi", RUN);

  const turns = await Promise.all(Array.from({ length: 6 }, () => run.next()));

  assert.deepEqual(
    turns.map(({ value }) => value?.text),
    ["Hel", "lo", " wörld", "!", undefined, undefined],
  );
});

test("a timeout ends the stream, with the partial", async (context) => {
  const { server, client } = await made(context);
  server.parkAfter = 2;

  await assert.rejects(read(client.generate("a/b", "hi", { ...RUN, timeoutMs: 200 })), (error) => {
    assert.ok(error instanceof DeadlineExceeded);
    assert.equal(error.lastSequence, 2);
    return true;
  });
});

test("a client that is closed ends its streams, and leaves their runs alone", async (context) => {
  const { server, client } = await made(context);
  server.parkAfter = 2;
  const run = client.generate("a/b", "hi", RUN);
  await run.next();

  const turn = run.next();
  client.close();

  await assert.rejects(turn, StreamClosed);
  await assert.rejects(client.get(RUN_ID), StreamClosed);
  assert.equal(server.cancels.length, 0);
});

test("control calls are repeated while the server does not answer them", async (context) => {
  const { server, client } = await made(context, LOG, { apiKey: "secret" });
  server.refusals.push(refusal(Code.Unavailable, "STORE_UNAVAILABLE"), refusal(Code.Unavailable, "STORE_UNAVAILABLE"));

  const { run } = await client.cancel(RUN_ID, "enough", { waitMs: 1_500 });

  assert.ok(equals(RunSchema, run, FINAL));
  assert.equal(server.cancels.length, 3);
  assert.deepEqual(
    server.cancels.map((each) => [each.reason, each.wait?.nanos]),
    Array(3).fill(["enough", 500_000_000]),
  );
  assert.deepEqual(new Set(server.authorizations), new Set(["Bearer secret"]));
});

test("a delete is not repeated", async (context) => {
  const { server, client } = await made(context);
  server.refusals.push(refusal(Code.Unavailable, "STORE_UNAVAILABLE"));

  await assert.rejects(client.delete(RUN_ID), { reason: "STORE_UNAVAILABLE" });
});

test("a list reads every page", async (context) => {
  const { server, client } = await made(context);
  const ids: string[] = [];

  for await (const run of client.list({ labels: { k: "v" }, pageSize: 1 })) ids.push(run.runId);

  assert.deepEqual(ids, ["run-1", "run-2", "run-3"]);
  assert.deepEqual(
    server.lists.map((each) => [each.pageToken, each.labels["k"]]),
    [
      ["", "v"],
      ["1", "v"],
      ["2", "v"],
    ],
  );
});

test("an aborted control call throws the reason", async (context) => {
  const { client } = await made(context);

  await assert.rejects(client.models({ signal: AbortSignal.abort() }), { name: "AbortError" });
});

test("a target is a host and a port", () => {
  assert.throws(() => new Client("localhost"), TypeError);
  assert.throws(() => new Client("http://localhost:1"), TypeError);
  new Client("dns:///localhost:1").close();
});
