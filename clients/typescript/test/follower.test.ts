/** The place in a run: what is asked next, what is taken, and when it is given up. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import {
  ConnectionLost,
  CursorAhead,
  DeadlineExceeded,
  Draining,
  Internal,
  MidstreamClientError,
  RunIdConflict,
  SlowReader,
  StreamGapError,
} from "../src/errors.js";
import { backoffMs, Follower, type FollowRequest } from "../src/follower.js";
import { GenerateRequestSchema, RunEventSchema, RunSchema, RunState, WatchRunRequestSchema } from "../src/proto.js";
import { deltaEvent, RUN_ID, startedEvent, textLog } from "./support/events.js";

const GENERATE = create(GenerateRequestSchema, { runId: RUN_ID, model: "a/b" });

class HandClock {
  now = 1000;
}

function followerOf(opening: FollowRequest = GENERATE, clock = new HandClock(), timeoutMs?: number): Follower {
  return new Follower(opening, { resumeMs: 10_000, timeoutMs, clock: () => clock.now, jitter: () => 1 });
}

function watchOf(afterSequence: number, claim = false) {
  const start = { case: "afterSequence", value: BigInt(afterSequence) } as const;
  return create(WatchRunRequestSchema, { runId: RUN_ID, start, claim });
}

function lost(): ConnectionLost {
  return new ConnectionLost("", { code: Code.Unavailable });
}

test("before the first event the same request is repeated", () => {
  const follower = followerOf();

  follower.lost(lost());

  assert.equal(follower.nextCall().request, GENERATE);
});

test("after an event the run is watched with a claim", () => {
  const follower = followerOf();
  textLog("a", "b")
    .slice(0, 2)
    .forEach((event) => follower.accept(event));

  follower.lost(lost());

  assert.deepEqual(follower.nextCall().request, watchOf(2, true));
});

test("a watch without a claim resumes without one, and leaving it stops nothing", () => {
  const follower = followerOf(watchOf(1));
  follower.accept(textLog("a", "b")[1] as never);

  assert.deepEqual(follower.nextCall().request, watchOf(2));
  assert.equal(follower.mustStop(true), false);
});

test("a snapshot is asked for until it came", () => {
  const opening = create(WatchRunRequestSchema, { runId: RUN_ID, start: { case: "fromSnapshot", value: true } });
  const follower = followerOf(opening);
  follower.accept(create(RunEventSchema, { event: { case: "progress", value: {} } }));
  assert.equal(follower.nextCall().request, opening);
  const run = create(RunSchema, { message: { parts: [{ part: { case: "text", value: { text: "ab" } } }] } });

  const deltas = follower.accept(create(RunEventSchema, { sequence: 3n, event: { case: "snapshot", value: { run } } }));

  assert.deepEqual(
    deltas.map((each) => [each.text, each.firstSequence, each.sequence]),
    [["ab", 1, 3]],
  );
  assert.deepEqual(follower.nextCall().request, watchOf(3));
});

test("events that are covered already are dropped, and the covered half of a merged one", () => {
  const follower = followerOf();
  const log = textLog("ab", "cd", "ef");
  log.slice(0, 3).forEach((event) => follower.accept(event));
  const merged = deltaEvent(4, { payload: { case: "text", value: "abcdef" } }, 2);

  assert.deepEqual(follower.accept(log[2] as never), []);
  const [delta] = follower.accept(merged);

  assert.deepEqual([delta?.text, delta?.offset, delta?.firstSequence, delta?.sequence], ["ef", 4, 4, 4]);
  assert.equal(follower.text, "abcdef");
});

test("a missing event is told with the partial, and the place is kept", () => {
  const follower = followerOf();
  const log = textLog("ab", "cd");
  log.slice(0, 2).forEach((event) => follower.accept(event));

  assert.throws(
    () => follower.accept(log[3] as never),
    (error) => {
      assert.ok(error instanceof StreamGapError);
      assert.deepEqual([error.runId, error.lastSequence, error.partial?.parts.length], [RUN_ID, 2, 1]);
      return true;
    },
  );
  assert.equal(follower.lastSequence, 2);
});

test("a missing event is told by its sequence alone", () => {
  const follower = followerOf();
  follower.accept(startedEvent());

  assert.throws(() => follower.accept(create(RunEventSchema, { sequence: 3n })), StreamGapError);
  assert.throws(() => follower.accept(create(RunEventSchema, { sequence: 4n, firstSequence: 3n })), StreamGapError);
  assert.equal(follower.lastSequence, 1);
});

test("an unknown event counts its sequence, and progress has none", () => {
  const follower = followerOf();
  follower.accept(startedEvent());

  assert.deepEqual(follower.accept(create(RunEventSchema, { sequence: 2n })), []);
  follower.accept(
    create(RunEventSchema, { sequence: 2n, event: { case: "progress", value: { state: RunState.RUNNING } } }),
  );

  assert.equal(follower.lastSequence, 2);
  assert.equal(follower.progress?.state, RunState.RUNNING);
});

test("a final message that does not fit is a gap", () => {
  const follower = followerOf();
  const log = textLog("ab", "cd");
  const other = textLog("ab", "xy");

  log.slice(0, 3).forEach((event) => follower.accept(event));

  assert.throws(() => follower.accept(other[3] as never), StreamGapError);
});

test("it waits at once, then longer, and gives up when the grace is over", () => {
  const clock = new HandClock();
  const follower = followerOf(GENERATE, clock);
  const delays: number[] = [];

  assert.throws(() => {
    for (;;) {
      delays.push(follower.lost(lost()));
      clock.now += delays.at(-1) ?? 0;
    }
  }, ConnectionLost);

  assert.deepEqual(delays.slice(0, 6), [0, 100, 200, 400, 800, 1000]);
  const waited = delays.reduce((sum, each) => sum + each, 0);
  assert.ok(waited < 10_000 && waited >= 9_000, `${waited}`);
});

test("an event gives the whole grace again", () => {
  const clock = new HandClock();
  const follower = followerOf(GENERATE, clock);
  follower.lost(lost());
  clock.now += 9_999;
  follower.accept(startedEvent());
  clock.now += 9_999;

  assert.equal(follower.lost(lost()), 0);
});

test("a server that names a delay is obeyed, and none is beyond the grace", () => {
  const draining = (retryAfterMs: number) => new Draining("", { code: Code.Unavailable, retryAfterMs });

  assert.equal(followerOf().lost(draining(2_000)), 2_000);
  assert.throws(() => followerOf().lost(draining(10_000)), Draining);
});

test("no wait is longer than what is left of the timeout", () => {
  const clock = new HandClock();
  const follower = followerOf(GENERATE, clock, 5_000);
  follower.nextCall();
  clock.now += 4_500;

  assert.equal(follower.lost(new Draining("", { code: Code.Unavailable, retryAfterMs: 3_000 })), 500);
});

test("what another call cannot mend is thrown at once", () => {
  for (const error of [
    new RunIdConflict("", { code: Code.AlreadyExists }),
    new CursorAhead("", { code: Code.OutOfRange }),
    new Internal("", { code: Code.Internal }),
    new DeadlineExceeded("", { code: Code.DeadlineExceeded }),
  ]) {
    assert.throws(() => followerOf().lost(error), error);
  }
});

test("a slow reader and a broken proxy are resumed", () => {
  assert.equal(followerOf().lost(new SlowReader("", { code: Code.Aborted })), 0);
  for (const code of [Code.Internal, Code.Unknown, Code.Canceled]) {
    assert.equal(followerOf().lost(new MidstreamClientError("", { code })), 0);
  }
});

test("a run that the server refused is not stopped by leaving", () => {
  const refused = followerOf();
  refused.noteEnded(new RunIdConflict("", { code: Code.AlreadyExists }));
  const drained = followerOf();
  drained.noteEnded(new Draining("", { code: Code.Unavailable }));
  const broken = followerOf();
  broken.noteEnded(lost());

  assert.deepEqual(
    [refused, drained, broken].map((each) => each.mustStop(false)),
    [false, false, true],
  );
});

test("a run that has ended is not stopped by leaving", () => {
  const follower = followerOf();
  textLog("a").forEach((event) => follower.accept(event));

  assert.equal(follower.mustStop(true), false);
  assert.equal(follower.final?.state, RunState.COMPLETED);
});

test("the caller's timeout begins with the first call and covers all of them", () => {
  const clock = new HandClock();
  const follower = followerOf(GENERATE, clock, 5_000);

  assert.equal(follower.nextCall().timeoutMs, 5_000);
  clock.now += 4_000;
  assert.equal(follower.nextCall().timeoutMs, 1_000);
  clock.now += 1_000;
  assert.throws(() => follower.nextCall(), DeadlineExceeded);
});

test("a run that ended at the cursor ends the stream", () => {
  const follower = followerOf(watchOf(4));
  const run = create(RunSchema, { state: RunState.COMPLETED, lastSequence: 4n });

  assert.equal(follower.endAt(create(RunSchema, { ...run, state: RunState.RUNNING })), false);
  assert.equal(follower.endAt(create(RunSchema, { ...run, state: 99 as RunState })), false); // of a later server
  assert.equal(follower.endAt(create(RunSchema, { ...run, lastSequence: 5n })), false);
  assert.equal(follower.endAt(run), true);
  assert.equal(follower.final, run);
});

test("jitter takes at most half of a delay", () => {
  assert.deepEqual(
    [0, 1, 5, 60].map((attempt) => backoffMs(attempt, () => 0)),
    [0, 50, 500, 500],
  );
});
