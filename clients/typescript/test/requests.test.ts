/** What is sent for the arguments of the methods. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { durationMs } from "@bufbuild/protobuf/wkt";

import { toolResult, tool, user } from "../src/messages.js";
import { DetachPolicy_Action, Role, ToolChoice_Mode } from "../src/proto.js";
import { generateRequest, resumeMsOf, watchRequest } from "../src/requests.js";
import { newRunId } from "../src/run-id.js";

test("a run has an id of its own, and a grace of 10 s", () => {
  const request = generateRequest("a/b", "hi", {});

  assert.match(request.runId, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(generateRequest("a/b", "hi", {}).runId, request.runId);
  assert.equal(request.onDetach?.action, DetachPolicy_Action.GRACE);
  assert.equal(resumeMsOf(request), 10_000);
});

test("an id tells its time", () => {
  const now = Date.UTC(2026, 10, 22);

  assert.equal(parseInt(newRunId(now).replaceAll("-", "").slice(0, 12), 16), now);
});

test("a conversation may be written in every form", () => {
  const { messages } = generateRequest(
    "a/b",
    [user("a"), { role: "assistant", content: "b" }, toolResult("1", "c", true)],
    { system: "s" },
  );

  assert.deepEqual(
    messages.map(({ role }) => role),
    [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.TOOL],
  );
});

test("options become fields", () => {
  const request = generateRequest("a/b", "hi", {
    tools: [tool("f", "does", { type: "object" }), { name: "g", parameters: " {} ", strict: true }],
    toolChoice: { tool: "f" },
    parameters: { temperature: 0, maxOutputTokens: 5, seed: 7n, reasoning: { budgetTokens: 9 } },
    limits: { totalMs: 1500, outputTokens: 3 },
    onDetach: { graceMs: 30_000 },
    retentionMs: 0,
    providerOptions: { user: "u" },
    labels: { k: "v" },
  });

  assert.deepEqual(
    request.tools.map((each) => [each.parametersSchema, each.strict]),
    [
      ['{"type":"object"}', undefined],
      [" {} ", true],
    ],
  );
  assert.deepEqual([request.toolChoice?.mode, request.toolChoice?.toolName], [ToolChoice_Mode.TOOL, "f"]);
  const { parameters } = request;
  assert.deepEqual([parameters?.temperature, parameters?.maxOutputTokens, parameters?.seed], [0, 5n, 7n]);
  assert.equal(parameters?.reasoning?.budgetTokens, 9n);
  assert.equal(request.limits?.total && durationMs(request.limits.total), 1500);
  assert.deepEqual([request.limits?.outputTokens, request.limits?.idle], [3n, undefined]);
  assert.equal(resumeMsOf(request), 30_000);
  assert.equal(request.retention && durationMs(request.retention), 0);
  assert.deepEqual(request.providerOptions, { user: "u" });
  assert.deepEqual(request.labels, { k: "v" });
});

test("a value without a form in the contract is the caller's error", () => {
  const wrong = (options: object) => () => generateRequest("a/b", "hi", options);

  assert.throws(wrong({ onDetach: "never" }), TypeError);
  assert.throws(wrong({ toolChoice: "maybe" }), TypeError);
  assert.throws(wrong({ parameters: { topK: -1 } }), /uint32/);
  assert.throws(wrong({ limits: { outputTokens: 1.5 } }), RangeError);
  assert.throws(() => generateRequest("a/b", [{ role: "tool", content: "x" }] as never, {}), TypeError);
  assert.throws(() => watchRequest("run", { afterSequence: 1, fromSnapshot: true }), TypeError);
});
