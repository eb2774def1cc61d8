/** One call of a stream, when its connection is not as it should be. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";

import { create } from "@bufbuild/protobuf";

import { Call } from "../src/call.js";
import { Channel } from "../src/channel.js";
import { ConnectionLost, DeadlineExceeded } from "../src/errors.js";
import { GenerateRequestSchema } from "../src/proto.js";
import { RUN_ID, textLog } from "./support/events.js";
import { ScriptedServer } from "./support/scripted-server.js";
import { test, type TestContext } from "./support/test.js";

const REQUEST = create(GenerateRequestSchema, { runId: RUN_ID });
const QUICK_PINGS = { pingIntervalMs: 500, pingTimeoutMs: 1_500 };

async function listeningOn(context: TestContext, server: Server): Promise<string> {
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => sockets.add(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  context.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("a peer that falls silent is given up, and the next call has another connection", async (context) => {
  const server = await ScriptedServer.serving(textLog("a", "b"));
  server.parkAfter = 2;
  const [host, port] = server.target.split(":") as [string, string];
  const upstreams: Socket[] = [];
  const proxy = createServer((socket) => {
    const upstream = connect(Number(port), host);
    upstreams.push(upstream);
    upstream.on("error", () => undefined);
    socket.on("error", () => undefined);
    socket.pipe(upstream).pipe(socket);
  });
  const channel = new Channel(await listeningOn(context, proxy), false, QUICK_PINGS);
  context.after(async () => {
    channel.close();
    for (const each of upstreams) each.destroy();
    await server[Symbol.asyncDispose]();
  });
  const call = new Call(channel, REQUEST, undefined, {});
  await call.read();
  await call.read();

  upstreams[0]?.unpipe();
  await assert.rejects(call.read(), ConnectionLost);
  const next = new Call(channel, REQUEST, undefined, {}); // in the same turn: the old session has yet to tell its error

  assert.equal((await next.read())?.event.case, "started");
  assert.equal(upstreams.length, 2);
  next.cancel();
});

test("a call's time covers the connecting, and it is not sent after it", async (context) => {
  const silent = createServer(() => undefined); // takes the connection, and never says a word of HTTP/2
  const channel = new Channel(await listeningOn(context, silent), true, QUICK_PINGS);
  context.after(() => channel.close());
  const call = new Call(channel, REQUEST, 100, {});

  await assert.rejects(call.read(), DeadlineExceeded);

  assert.equal(call.isInFlight, false);
});

test("a call that is cancelled before it is connected is not sent", async (context) => {
  const silent = createServer(() => undefined);
  const channel = new Channel(await listeningOn(context, silent), true, QUICK_PINGS);
  context.after(() => channel.close());
  const call = new Call(channel, REQUEST, undefined, {});

  call.cancel();

  await assert.rejects(call.read(), ConnectionLost);
  assert.equal(call.isInFlight, false);
});

test("a call that is cancelled while it is being sent is either not sent, or known to be in flight", async (context) => {
  const server = await ScriptedServer.serving(textLog("a"));
  server.parkAfter = 1;
  const channel = new Channel(server.target, false, QUICK_PINGS);
  context.after(async () => {
    channel.close();
    await server[Symbol.asyncDispose]();
  });
  await channel.connect();
  let inFlight = 0;

  for (let turns = 0; turns < 40; turns += 1) {
    const call = new Call(channel, REQUEST, undefined, {});
    for (let turn = 0; turn < turns; turn += 1) await Promise.resolve();
    if (call.isInFlight) inFlight += 1;
    call.cancel();
    await assert.rejects(call.read(), ConnectionLost);
  }
  for (let index = 0; index < 3; index += 1) await channel.service.listModels({}); // what was sent has come by then

  assert.ok(server.requests.length <= inFlight, `${server.requests.length} came, ${inFlight} were known`);
  assert.ok(inFlight > 0 && inFlight < 40, `${inFlight} of 40`);
});
