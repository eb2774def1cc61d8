/** Errors have the same names in every client, and carry what the server said. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { anyPack, durationFromMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";

import * as errors from "../src/errors.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema, RunSchema } from "../src/proto.js";
import { errorOfCall, errorOfRun } from "../src/status.js";

const python = new URL("../../../python/", import.meta.url);

function refusal(code: Code, reason: string, domain = "midstream.v1"): ConnectError {
  return new ConnectError("words", code, { "grpc-status": `${code}` }, [
    { desc: ErrorInfoSchema, value: { reason, domain, metadata: { last_sequence: "3" } } },
    { desc: BadRequestSchema, value: { fieldViolations: [{ field: 'labels["k"]', description: "too long" }] } },
    { desc: RetryInfoSchema, value: { retryDelay: durationFromMs(1500) } },
  ]);
}

/** The same, as it is when it came over the wire: with details in bytes. */
function received(error: ConnectError): ConnectError {
  const copy = new ConnectError(error.rawMessage, error.code, error.metadata);
  copy.details = error.details.map((detail) => {
    assert.ok("desc" in detail);
    const any = anyPack(detail.desc, create(detail.desc, detail.value));
    return { type: detail.desc.typeName, value: any.value };
  });
  return copy;
}

test("each reason of the Python client has an error of the same name here", () => {
  const source = readFileSync(new URL("midstream_client/errors.py", python), "utf8");
  const classes = [...source.matchAll(/^class (\w+)\((\w+)[^)]*\):[^]*?(?=^class |^def |^# ---)/gm)];
  const expected = classes.map(([body, name, base]) => {
    const reason = /default_reason = "(\w+)"/.exec(body)?.[1];
    return [name, base, reason] as const;
  });
  assert.ok(expected.length > 30);

  for (const [name, base, reason] of expected) {
    if (base === "Exception" || name === "FieldViolation") continue;
    const here = (errors as Record<string, unknown>)[name as string] as typeof errors.MidstreamClientError;
    assert.ok(here, `${name} is not here`);
    if (reason) assert.equal(here.defaultReason, reason, name);
    if (reason) assert.equal((base === "RunFailed" ? errors.RUN_FAILURES : errors.CALL_ERRORS).get(reason), here, name);
  }
});

test("the version is the Python client's", () => {
  const theirs = /^version = "(.+)"$/m.exec(readFileSync(new URL("pyproject.toml", python), "utf8"))?.[1];
  const ours = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };

  assert.equal(ours.version, theirs);
});

test("an error carries all that the server said", () => {
  const error = errorOfCall(received(refusal(Code.InvalidArgument, "INVALID_REQUEST")));

  assert.ok(error instanceof errors.InvalidRequest);
  assert.deepEqual([error.name, error.message, error.code], ["InvalidRequest", "words", Code.InvalidArgument]);
  assert.deepEqual(error.metadata, { last_sequence: "3" });
  assert.deepEqual(error.fieldViolations, [{ field: 'labels["k"]', description: "too long" }]);
  assert.equal(error.retryAfterMs, 1500);
});

test("an unknown reason is the base class with that reason, and a foreign domain is no reason", () => {
  const unknown = errorOfCall(received(refusal(Code.PermissionDenied, "WHO_KNOWS")));
  const foreign = errorOfCall(received(refusal(Code.NotFound, "RUN_NOT_FOUND", "example.com")));

  assert.deepEqual([unknown.constructor, unknown.reason], [errors.MidstreamClientError, "WHO_KNOWS"]);
  assert.deepEqual([foreign.constructor, foreign.reason], [errors.MidstreamClientError, ""]);
});

test("whatever breaks in a connection is a lost connection", () => {
  for (const code of [Code.Canceled, Code.Aborted, Code.Internal, Code.InvalidArgument, Code.Unavailable]) {
    const error = errorOfCall(new ConnectError("it broke", code));

    assert.ok(error instanceof errors.ConnectionLost);
    assert.deepEqual([error.code, error.message], [Code.Unavailable, "it broke"]);
  }
  assert.ok(errorOfCall(new ConnectError("", Code.DeadlineExceeded)) instanceof errors.DeadlineExceeded);
  assert.equal(errorOfCall(new ConnectError("", Code.Unauthenticated)).code, Code.Unauthenticated);
});

test("the error of a run has the run and its partial", () => {
  const info = create(ErrorInfoSchema, { domain: "midstream.v1", reason: "INTERNAL", metadata: { retryable: "true" } });
  const message = { parts: [{ part: { case: "text", value: { text: "ab" } } as const }] };
  const foreign = create(ErrorInfoSchema, { domain: "example.com", reason: "OWNER_LOST" });
  const details = [foreign, info].map((each) => anyPack(ErrorInfoSchema, each));
  const error = { code: Code.Internal, message: "broke", details };
  const run = create(RunSchema, { runId: "run", lastSequence: 3n, message, error });

  const thrown = errorOfRun(run);

  assert.ok(thrown instanceof errors.RunInternal);
  assert.deepEqual([thrown.message, thrown.retryable, thrown.runId, thrown.lastSequence], ["broke", true, "run", 3]);
  assert.equal(thrown.partial, run.message);
  assert.equal(errorOfRun(create(RunSchema)).constructor, errors.RunFailed);
});
