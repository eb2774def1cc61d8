/** The examples, those of the README too, work as they stand: against the real server, with a model that counts. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { ended, listening, realServer } from "./support/real-server.js";
import { test } from "./support/test.js";

const MODEL = "sim/count-1000-100";
const readme = new URL("readme/", import.meta.url);
const examples = new URL("../examples/", import.meta.url);

/** What the README's examples print; a busy machine gets some more text before the stop. */
const EXPECTED = [
  /^1 2 3 .*\n\[[0-9a-f-]{36}: \d{2,3} characters kept, state CANCELLED\]\n$/,
  /^(1 2 3 4 5 6[ \d]*)\nkept: \1 REQUESTED\n$/,
  /^CANCELLED 1.*\n\d+ 1.*\n(\d+ .*\n)*[0-9a-f-]{36} CANCELLED\n$/,
  /^\[[^]*\]\n1 2 3 .* 40\n$/,
  /^no such model: .+\n$/,
];

let server: Awaited<ReturnType<typeof realServer>> | undefined;
before(async () => {
  server = await realServer();
});
after(() => server?.close());

function target(): string {
  assert.ok(server);
  return server.target;
}

async function output(file: URL): Promise<string> {
  const env = { ...process.env, MIDSTREAM_TARGET: target(), MIDSTREAM_MODEL: MODEL };
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [fileURLToPath(file)], {
    env,
    timeout: 20_000,
  });
  assert.equal(stderr, "");
  return stdout;
}

test("there is an expectation for each example of the README", () => {
  assert.equal(readdirSync(readme).filter((name) => name.endsWith(".js")).length, EXPECTED.length);
});

for (const [index, expected] of EXPECTED.entries()) {
  test(`example ${index} of the README works`, async () => {
    const code = readFileSync(new URL(`example${index}.js`, readme), "utf8");
    const file = new URL(`run${index}.mjs`, readme);
    writeFileSync(file, code.replaceAll("127.0.0.1:50051", target()).replaceAll("local/smollm2", MODEL));

    assert.match(await output(file), expected);
  });
}

test("the example that stops midstream works", async () => {
  assert.match(
    await output(new URL("stop-midstream.js", examples)),
    /^1 2 3 .*\nCANCELLED REQUESTED: \d{2,3} characters kept\n$/,
  );
});

test("the HTTP example stops the run of a caller who hangs up", async () => {
  const variables = { MIDSTREAM_TARGET: target(), MIDSTREAM_MODEL: MODEL, PORT: "0" };
  const { child, target: address } = await listening(
    process.execPath,
    [fileURLToPath(new URL("http-server.js", examples))],
    variables,
  );
  try {
    const caller = new AbortController();
    const body = { method: "POST", body: "Count.", signal: caller.signal };
    const response = await fetch(`http://${address}/generate`, body);
    await response.body?.getReader().read();
    caller.abort();

    const kept = await (await fetch(`http://${address}/runs/${response.headers.get("x-run-id")}`)).json();

    assert.match(JSON.stringify(kept), /^\{"state":"CANCELLED","text":"1/);
  } finally {
    await ended(child);
  }
});
