package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import midstream.client.errors.ConnectionLost;
import midstream.client.errors.CursorAhead;
import midstream.client.errors.DeadlineExceeded;
import midstream.client.errors.Draining;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.Internal;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.SlowReader;
import midstream.client.errors.StreamGapError;
import midstream.v1.GenerateRequest;
import midstream.v1.MessageDelta;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunProgress;
import midstream.v1.RunSnapshot;
import midstream.v1.RunState;
import midstream.v1.WatchRunRequest;
import org.junit.jupiter.api.Test;

class FollowerTest {
    private static final Duration GRACE = Duration.ofSeconds(10);
    private static final Opening.Start START = new Opening.Start(GenerateRequest.newBuilder().setRunId("r").build());

    private long now;
    private final Follower follower = follower(START, null);

    private Follower follower(Opening opening, Duration timeout) {
        Backoff backoff = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(1), () -> 1.0);
        return new Follower(opening, GRACE, timeout, () -> now, backoff);
    }

    private static ErrorDetails details(Status.Code code, Duration retryAfter) {
        return new ErrorDetails("", "", code, Map.of(), List.of(), retryAfter);
    }

    private static MidstreamClientError lostConnection() {
        return new ConnectionLost(details(Status.Code.UNAVAILABLE, null));
    }

    private static Opening.Watch watch(WatchRunRequest.Builder request) {
        return new Opening.Watch(request.setRunId("r").build());
    }

    /** A start that was not answered is the same start again: it attaches to the run if there is one. */
    @Test
    void beforeTheFirstEventTheStartIsRepeated() {
        follower.lost(lostConnection());

        assertSame(START, follower.nextOpening());
    }

    /** After it, the log is followed on from the last sequence, with the claim. */
    @Test
    void afterTheFirstEventTheRunIsWatchedWithAClaim() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));
        follower.lost(lostConnection());

        WatchRunRequest request = assertInstanceOf(Opening.Watch.class, follower.nextOpening()).request();
        assertEquals("r 2 true", request.getRunId() + " " + request.getAfterSequence() + " " + request.getClaim());
    }

    /** News of a live run may come before its log; from sequence 0 on the log is asked for. */
    @Test
    void progressBeforeTheFirstEntryIsNoEntry() {
        follower.accept(RunEvent.newBuilder().setProgress(RunProgress.newBuilder().setStateValue(1)).build());

        WatchRunRequest request = assertInstanceOf(Opening.Watch.class, follower.nextOpening()).request();
        assertTrue(request.hasAfterSequence());
        assertEquals(0, request.getAfterSequence());
        assertEquals(RunState.RUN_STATE_QUEUED, follower.progress().orElseThrow().getState());
    }

    /** What was received is not delivered again. */
    @Test
    void coveredEventsAreDropped() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));

        assertEquals(List.of(), follower.accept(Events.started()));
        assertEquals(List.of(), follower.accept(Events.delta(2, Events.text(0, 0, "ab"))));
        assertEquals("ab", follower.text());
    }

    /** A merged event that straddles the cursor gives its new part only. */
    @Test
    void aMergedEventIsCutAtTheCursor() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "é")));

        Delta delta = follower.accept(Events.merged(2, 4, Events.text(0, 0, "é世!"))).get(0);

        assertEquals("世! 3 4", delta.text() + " " + delta.firstSequence() + " " + delta.sequence());
        assertEquals(2, delta.offset());
        assertEquals(4, follower.lastSequence());
    }

    /** Sequences that are left out are told, with the place, and nothing moves. */
    @Test
    void aSequenceThatIsSkippedIsAGap() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));

        StreamGapError error = assertThrows(
                StreamGapError.class, () -> follower.accept(Events.delta(4, Events.text(0, 2, "c"))));

        assertEquals("r 2 STREAM_GAP", error.runId() + " " + error.lastSequence() + " " + error.reason());
        assertEquals("ab", error.partial().orElseThrow().getParts(0).getText().getText());
        assertEquals(2, follower.lastSequence());
    }

    /** A later server's kinds are skipped; their sequences count. */
    @Test
    void unknownKindsAreSkippedAndCounted() {
        follower.accept(Events.started());
        RunEvent event = RunEvent.newBuilder().setSequence(2).setUnknownFields(Events.unknown()).build();
        MessageDelta payload = MessageDelta.newBuilder().setUnknownFields(Events.unknown()).build();

        assertEquals(List.of(), follower.accept(event));
        assertEquals(List.of(), follower.accept(Events.delta(3, payload)));
        assertEquals("ok", follower.accept(Events.delta(4, Events.text(1, 0, "ok"))).get(0).text());
    }

    /** The whole message is held against what was received. */
    @Test
    void anEndingThatDoesNotFitIsAGap() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));

        assertThrows(StreamGapError.class, () -> follower.accept(Events.finished(3, "abc")));
    }

    /** The text stays what it was, and is the final message's in the end. */
    @Test
    void theEndingIsTheFinalRun() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));
        follower.accept(Events.finished(3, "ab"));

        assertEquals(RunState.RUN_STATE_COMPLETED, follower.finalRun().orElseThrow().getState());
        assertEquals("ab", follower.text());
        assertFalse(follower.mustStop(true));
    }

    /** A snapshot comes as a delta per part, and the log goes on after it. */
    @Test
    void aSnapshotComesAsDeltas() {
        Follower observer = follower(watch(WatchRunRequest.newBuilder().setFromSnapshot(true)), null);
        RunEvent snapshot = RunEvent.newBuilder()
                .setSequence(5)
                .setSnapshot(RunSnapshot.newBuilder().setRun(Events.run(5, RunState.RUN_STATE_RUNNING, "ab")))
                .build();

        Delta delta = observer.accept(snapshot).get(0);

        assertEquals("ab 1 5", delta.text() + " " + delta.firstSequence() + " " + delta.sequence());
        assertEquals(List.of(), observer.accept(snapshot));
        assertFalse(observer.mustStop(true));
    }

    /** Lost connections, servers that go away, and readers that were too slow. */
    @Test
    void whatTheServerDidNotMeanIsResumed() {
        List<MidstreamClientError> losses = List.of(
                lostConnection(),
                new Draining(details(Status.Code.UNAVAILABLE, null)),
                new SlowReader(details(Status.Code.ABORTED, null)),
                new MidstreamClientError(details(Status.Code.INTERNAL, null)),
                new MidstreamClientError(details(Status.Code.CANCELLED, null)),
                new MidstreamClientError(details(Status.Code.UNKNOWN, null)));

        for (MidstreamClientError loss : losses) {
            assertEquals(Duration.ZERO, follower(START, null).lost(loss), loss.toString());
        }
    }

    /** What the server said on purpose, or the caller's own timeout, is told. */
    @Test
    void otherErrorsAreTold() {
        List<MidstreamClientError> errors = List.of(
                new Internal(details(Status.Code.INTERNAL, null)),
                new CursorAhead(details(Status.Code.OUT_OF_RANGE, null)),
                new DeadlineExceeded(details(Status.Code.DEADLINE_EXCEEDED, null)));

        for (MidstreamClientError error : errors) {
            assertSame(error, assertThrows(MidstreamClientError.class, () -> follower.lost(error)));
        }
    }

    /** At once, then 100, 200, 400, 800, 1000 ms, until the grace is over; an event begins it anew. */
    @Test
    void attemptsBackOffUntilTheGraceIsOver() {
        follower.accept(Events.started());
        for (int milliseconds : new int[] {0, 100, 200, 400, 800, 1000, 1000}) {
            assertEquals(Duration.ofMillis(milliseconds), follower.lost(lostConnection()));
        }
        now += Duration.ofMillis(9_500).toNanos();
        MidstreamClientError last = lostConnection();
        assertSame(last, assertThrows(ConnectionLost.class, () -> follower.lost(last)));

        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));
        assertEquals(Duration.ZERO, follower.lost(lostConnection()));
    }

    /** A server that says when to come again knows better. */
    @Test
    void theServersDelayIsKept() {
        MidstreamClientError error = new Draining(details(Status.Code.UNAVAILABLE, Duration.ofSeconds(3)));

        assertEquals(Duration.ofSeconds(3), follower.lost(error));
    }

    /** A refused start is nobody's to stop; one that may have begun is. */
    @Test
    void leavingStopsOnlyWhatMayHaveStarted() {
        assertTrue(follower.mustStop(true));
        assertFalse(follower.mustStop(false));

        follower.noteEnded(new MidstreamClientError(details(Status.Code.INVALID_ARGUMENT, null)));
        follower.noteEnded(new Draining(details(Status.Code.UNAVAILABLE, null)));
        assertFalse(follower.mustStop(false));

        follower.noteEnded(lostConnection());
        assertTrue(follower.mustStop(false));
    }

    /** Leaving a watch stops the run only with a claim. */
    @Test
    void anObserverNeverStopsARun() {
        Follower observer = follower(watch(WatchRunRequest.newBuilder()), null);
        Follower holder = follower(watch(WatchRunRequest.newBuilder().setClaim(true)), null);
        observer.accept(Events.started());
        holder.accept(Events.started());

        assertFalse(observer.mustStop(true));
        assertTrue(holder.mustStop(true));
    }

    /** The timeout counts from the first call, over all calls. */
    @Test
    void theTimeoutCoversAllCalls() {
        Follower bounded = follower(START, Duration.ofSeconds(5));
        assertEquals(Duration.ofSeconds(5), bounded.remaining().orElseThrow());

        now += Duration.ofSeconds(2).toNanos();
        assertEquals(Duration.ofSeconds(3), bounded.remaining().orElseThrow());

        now += Duration.ofSeconds(3).toNanos();
        assertThrows(DeadlineExceeded.class, bounded::remaining);
    }

    /** A watch that begins at the end has nothing to come: the run itself is the ending. */
    @Test
    void aRunThatEndedAtTheCursorIsTheEnding() {
        Follower late = follower(watch(WatchRunRequest.newBuilder().setAfterSequence(7)), null);

        assertFalse(late.endAt(Events.run(7, RunState.RUN_STATE_RUNNING, "ab")));
        assertFalse(late.endAt(Events.run(9, RunState.RUN_STATE_COMPLETED, "ab")));
        assertTrue(late.endAt(Events.run(7, RunState.RUN_STATE_COMPLETED, "ab")));
        assertEquals("ab", late.text());
    }

    /** It must be the sum of what was received; a store that fails over may have lost some. */
    @Test
    void aRunThatEndedAtTheCursorWithAnotherMessageIsAGap() {
        follower.accept(Events.started());
        follower.accept(Events.delta(2, Events.text(0, 0, "ab")));
        Run other = Events.run(2, RunState.RUN_STATE_FAILED, "AB");

        StreamGapError error = assertThrows(StreamGapError.class, () -> follower.endAt(other));

        assertEquals("r 2", error.runId() + " " + error.lastSequence());
    }

    /** No wait is longer than what is left of the timeout, and a delay beyond all measure is one that is too long. */
    @Test
    void aDelayEndsWithTheTimeout() {
        Follower bounded = follower(START, Duration.ofSeconds(5));
        bounded.remaining();
        now += Duration.ofSeconds(4).toNanos();
        Duration never = Duration.ofSeconds(315_576_000_000L);

        assertEquals(Duration.ofSeconds(1),
                bounded.lost(new Draining(details(Status.Code.UNAVAILABLE, Duration.ofSeconds(3)))));
        assertThrows(Draining.class, () -> bounded.lost(new Draining(details(Status.Code.UNAVAILABLE, never))));
    }
}
