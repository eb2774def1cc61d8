// Passes a stream on to HTTP callers. One who hangs up stops the run; what it made can still be read by its id.
//     MIDSTREAM_TARGET=127.0.0.1:50051 MIDSTREAM_MODEL=local/smollm2 PORT=8080 node http-server.js
//     curl -N -d 'Count to twenty.' http://127.0.0.1:8080/generate     curl http://127.0.0.1:8080/runs/ID
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { text } from "node:stream/consumers";

import { Client, MidstreamClientError, RunState, textOf } from "midstream-client";

const client = new Client(process.env["MIDSTREAM_TARGET"] ?? "127.0.0.1:50051");
const model = process.env["MIDSTREAM_MODEL"] ?? "local/smollm2";

async function generate(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const hangUp = new AbortController();
  response.on("close", () => hangUp.abort());
  const run = client.generate(model, await text(request), { signal: hangUp.signal });
  response.writeHead(200, { "content-type": "text/plain; charset=utf-8", "x-run-id": run.runId });
  for await (const delta of run) response.write(delta.text);
  response.end();
}

async function show(runId: string, response: ServerResponse): Promise<void> {
  const run = await client.get(runId, { waitMs: 10_000 });
  response.end(JSON.stringify({ state: RunState[run.state], text: textOf(run.message) }));
}

const server = createServer((request, response) => {
  const runId = /^\/runs\/(.+)$/.exec(request.url ?? "")?.[1];
  (runId ? show(runId, response) : generate(request, response)).catch((error: unknown) => {
    if (response.destroyed) return; // the caller hung up
    if (!response.headersSent) response.writeHead(502);
    response.end(error instanceof MidstreamClientError ? `${error.reason}: ${error.message}\n` : "internal error\n");
  });
});
server.listen(Number(process.env["PORT"] ?? 8080), "127.0.0.1", () => {
  console.log(`listening on 127.0.0.1:${(server.address() as AddressInfo).port}`);
});
