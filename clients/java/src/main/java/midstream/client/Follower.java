package midstream.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.EnumSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.LongSupplier;
import midstream.client.errors.ConnectionLost;
import midstream.client.errors.DeadlineExceeded;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.SlowReader;
import midstream.client.errors.StreamGapError;
import midstream.v1.Message;
import midstream.v1.MessageDelta;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunProgress;
import midstream.v1.RunStarted;
import midstream.v1.WatchRunRequest;

/**
 * Where a reader stands in a run, and what it does next. No I/O and no waiting: a stream drives it.
 *
 * <p>The stream asks for the next call's request, hands over each event, and reports each way in which a call ended
 * before the run did. The answer is how long to wait before the next call, or an error that says why there is none.
 * Any thread may read it.
 */
final class Follower {
    private static final Set<Status.Code> REFUSALS = EnumSet.of(
            Status.Code.INVALID_ARGUMENT,
            Status.Code.UNAUTHENTICATED,
            Status.Code.PERMISSION_DENIED,
            Status.Code.NOT_FOUND,
            Status.Code.ALREADY_EXISTS,
            Status.Code.FAILED_PRECONDITION,
            Status.Code.RESOURCE_EXHAUSTED,
            Status.Code.OUT_OF_RANGE,
            Status.Code.UNIMPLEMENTED);
    /** What a broken connection looks like besides UNAVAILABLE, if no reason of Midstream comes with it. */
    private static final Set<Status.Code> TRANSPORT_CODES =
            EnumSet.of(Status.Code.INTERNAL, Status.Code.UNKNOWN, Status.Code.CANCELLED);

    private final Opening opening;
    private final Duration resumeTime;
    private final Duration timeout;
    private final LongSupplier clock;
    private final Backoff backoff;
    private final MessageAccumulator message;
    private Long deadline;
    private Long lostTime;
    private int attempt;
    private boolean mayExist;
    private boolean isHeard;
    private long lastSequence;
    private RunStarted started;
    private RunProgress progress;
    private Run finalRun;

    /**
     * A reader that has received nothing yet.
     *
     * @param timeout from the first call; null is for ever
     * @param clock nanoseconds
     */
    Follower(Opening opening, Duration resumeTime, Duration timeout, LongSupplier clock, Backoff backoff) {
        this.opening = opening;
        this.resumeTime = resumeTime;
        this.timeout = timeout;
        this.clock = clock;
        this.backoff = backoff;
        this.lastSequence = opening instanceof Opening.Watch watch ? watch.request().getAfterSequence() : 0;
        this.message = new MessageAccumulator(lastSequence > 0);
    }

    String runId() {
        return opening.runId();
    }

    synchronized long lastSequence() {
        return lastSequence;
    }

    synchronized Optional<RunStarted> started() {
        return Optional.ofNullable(started);
    }

    synchronized Optional<RunProgress> progress() {
        return Optional.ofNullable(progress);
    }

    synchronized Optional<Run> finalRun() {
        return Optional.ofNullable(finalRun);
    }

    /** The text received so far, or of the final message. */
    synchronized String text() {
        return finalRun == null ? message.text() : Runs.text(finalRun);
    }

    /** The message so far, or the final one. */
    synchronized Message message() {
        return finalRun != null && finalRun.hasMessage() ? finalRun.getMessage() : message.message();
    }

    /** The request of the next call. */
    synchronized Opening nextOpening() {
        boolean isWaitingForSnapshot = lastSequence == 0 && startsFromSnapshot();
        if (!isHeard || isWaitingForSnapshot) {
            return opening;
        }
        return new Opening.Watch(WatchRunRequest.newBuilder()
                .setRunId(runId())
                .setAfterSequence(lastSequence)
                .setClaim(opening.claims())
                .build());
    }

    /** How long the next call may take; throws DeadlineExceeded if the caller's timeout has passed. */
    synchronized Optional<Duration> remaining() {
        if (timeout == null) {
            return Optional.empty();
        }
        if (deadline == null) {
            deadline = clock.getAsLong() + timeout.toNanos();
        }
        long left = deadline - clock.getAsLong();
        if (left <= 0) {
            throw withPlace(new DeadlineExceeded(ErrorDetails.of("")));
        }
        return Optional.of(Duration.ofNanos(left));
    }

    /** Takes an event and returns what is new and known in it; throws StreamGapError if it does not follow. */
    synchronized List<Delta> accept(RunEvent event) {
        isHeard = true;
        lostTime = null;
        if (event.hasProgress()) {
            progress = event.getProgress();
            return List.of();
        }
        if (event.getSequence() <= lastSequence) {
            return List.of();
        }
        try {
            List<Delta> deltas = event.hasSnapshot() ? foldSnapshot(event) : foldEntry(event);
            lastSequence = event.getSequence();
            attempt = 0;
            return deltas.stream().filter(Delta::isKnown).toList();
        } catch (StreamGapError error) {
            throw withPlace(error);
        }
    }

    /**
     * Takes the run in place of its last event, where that had been received before: {@code after_sequence} was its
     * end. Returns whether it is so; otherwise the stream that ended was cut off. Throws StreamGapError if that run says
     * another thing than what was received: a store that fails over may lose what it had told.
     */
    synchronized boolean endAt(Run run) {
        if (!Runs.isEnded(run) || run.getLastSequence() != lastSequence) {
            return false;
        }
        try {
            end(run);
        } catch (StreamGapError error) {
            throw withPlace(error);
        }
        return true;
    }

    /** The run as it ended, found by other means. */
    synchronized void endWith(Run run) {
        finalRun = run;
    }

    /**
     * How long to wait before the next call. Throws the error, with the partial, where another call cannot help or the
     * time to resume is over.
     */
    synchronized Duration lost(MidstreamClientError error) {
        noteEnded(error);
        if (!isResumable(error)) {
            throw withPlace(error);
        }
        long now = clock.getAsLong();
        if (lostTime == null) {
            lostTime = now;
        }
        Duration delay = backoff.delay(attempt);
        Duration asked = error.retryAfter().orElse(Duration.ZERO);
        delay = asked.compareTo(delay) > 0 ? asked : delay;
        if (delay.plusNanos(now - lostTime).compareTo(resumeTime) >= 0) {
            throw withPlace(error);
        }
        attempt++;
        long left = deadline == null ? Long.MAX_VALUE : Math.max(0, deadline - now);
        return Duration.ofNanos(Math.min(delay.toNanos(), left)); // the next call then tells of the deadline
    }

    /** Takes note of a call that ended. One that was not refused may have started the run, though no event came. */
    synchronized void noteEnded(MidstreamClientError error) {
        Status.Code code = error.code().orElse(null);
        boolean hasSaidWhy = code == Status.Code.UNAVAILABLE && !(error instanceof ConnectionLost);
        mayExist = mayExist || !(hasSaidWhy || REFUSALS.contains(code));
    }

    /**
     * Whether leaving now has to stop the run. Not if the server had refused it: a cancel would then be remembered for
     * an id that never ran, or hit the run of somebody else that has this id.
     */
    synchronized boolean mustStop(boolean isInFlight) {
        return opening.claims() && finalRun == null && (isInFlight || isHeard || mayExist);
    }

    /** The error, with what was received. */
    synchronized <T extends MidstreamClientError> T withPlace(T error) {
        error.at(runId(), lastSequence, message());
        return error;
    }

    private boolean startsFromSnapshot() {
        return opening instanceof Opening.Watch watch && watch.request().getFromSnapshot();
    }

    private List<Delta> foldSnapshot(RunEvent event) {
        List<MessageDelta> folded = message.foldSnapshot(event.getSnapshot().getRun().getMessage());
        return folded.stream().map(each -> new Delta(event.getSequence(), lastSequence + 1, each)).toList();
    }

    private List<Delta> foldEntry(RunEvent event) {
        long first = event.getFirstSequence() == 0 ? event.getSequence() : event.getFirstSequence();
        if (first > lastSequence + 1) {
            throw Payloads.gap("event %d came after event %d", first, lastSequence);
        }
        if (event.hasStarted()) {
            started = event.getStarted();
        } else if (event.hasFinished()) {
            end(event.getFinished().getRun());
        } else if (event.hasDelta()) {
            MessageDelta rest = message.fold(event.getDelta(), first <= lastSequence);
            return List.of(new Delta(event.getSequence(), Math.max(first, lastSequence + 1), rest));
        }
        return List.of();
    }

    /** Takes the run as it ended; throws StreamGapError if what was received is not what it says. */
    private void end(Run run) {
        finalRun = run;
        message.checkFinal(run.getMessage());
    }

    private static boolean isResumable(MidstreamClientError error) {
        Status.Code code = error.code().orElse(null);
        return error instanceof SlowReader
                || code == Status.Code.UNAVAILABLE
                || TRANSPORT_CODES.contains(code) && error.reason().isEmpty();
    }
}
