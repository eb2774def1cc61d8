package midstream.client;

import static io.grpc.Contexts.statusFromCancelled;

import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.Queue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.concurrent.Flow;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import midstream.client.errors.ConnectionLost;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.Interrupted;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.StreamClosed;
import midstream.v1.GenerateRequest;
import midstream.v1.GenerationServiceGrpc;
import midstream.v1.Message;
import midstream.v1.Run;
import midstream.v1.RunProgress;
import midstream.v1.RunStarted;
import midstream.v1.RunState;

/**
 * A run that is followed, delta by delta, across lost connections.
 *
 * <p>Made for try-with-resources: leaving the block before the run ended stops the run (unless it only watches). One
 * thread iterates, once; any thread may call {@link #cancel}, {@link #close}, and read what has come. An interrupt of
 * the thread that iterates throws {@link Interrupted}, which leaves the block, and so stops the run too; so does a
 * cancel of the {@link Context} in which the stream was made.
 */
public final class RunStream implements Iterable<Delta>, Iterator<Delta>, AutoCloseable {
    private static final System.Logger LOGGER = System.getLogger("midstream.client");
    /** How long {@code result} waits for the ending of a run whose stream was left. */
    private static final Duration AFTERWARDS = Duration.ofSeconds(60);

    private final Transport transport;
    private final MidstreamClient client;
    private final Follower follower;
    private final Queue<Delta> pending = new ArrayDeque<>();
    /** Its waiters are woken when the stream is left, or its context is cancelled. */
    private final Object lock = new Object();
    /** Where the stream was made: if that is cancelled (a server's handler whose caller left), so is the stream. */
    private final Context context = Context.current();
    private volatile EventCall call;
    private volatile Future<Run> question;
    private volatile boolean isStopped;
    private volatile boolean isLeft;

    RunStream(Transport transport, MidstreamClient client, Follower follower) {
        this.transport = transport;
        this.client = client;
        this.follower = follower;
        open();
        transport.warm();
    }

    /** The run's id, known before the first answer. */
    public String runId() {
        return follower.runId();
    }

    /** The answer's text so far: the text parts, joined. */
    public String text() {
        return follower.text();
    }

    /** The message so far. */
    public Message message() {
        return follower.message();
    }

    /** The last sequence that was received: what {@link WatchOptions#afterSequence} takes. */
    public long lastSequence() {
        return follower.lastSequence();
    }

    /** The run's first event, once it came. */
    public Optional<RunStarted> started() {
        return follower.started();
    }

    /** The latest news of the run that is not part of its log. */
    public Optional<RunProgress> progress() {
        return follower.progress();
    }

    /** The run as it ended; empty before. */
    public Optional<Run> finalRun() {
        return follower.finalRun();
    }

    /** This stream: it can be iterated over once. */
    @Override
    public Iterator<Delta> iterator() {
        return this;
    }

    /**
     * Waits for a delta. False: the run ended; {@link #finalRun()} says how.
     *
     * @throws MidstreamClientError if the run was refused, or cannot be followed any more
     */
    @Override
    public boolean hasNext() {
        while (pending.isEmpty()) {
            if (follower.finalRun().isPresent()) {
                return false;
            }
            receive();
        }
        return true;
    }

    /**
     * Waits for a delta and returns it.
     *
     * @throws NoSuchElementException if the run ended
     * @throws MidstreamClientError if the run was refused, or cannot be followed any more
     */
    @Override
    public Delta next() {
        if (!hasNext()) {
            throw new NoSuchElementException("the run has ended");
        }
        return pending.remove();
    }

    /** The same deltas as a publisher, for one subscriber; its cancel is {@link #close}. Do not iterate as well. */
    public Flow.Publisher<Delta> publisher(Executor executor) {
        return new DeltaPublisher(this, executor);
    }

    /** Stops the run and returns it with its partial message. The stream goes on to the ending. */
    public Run cancel() {
        return cancel("");
    }

    /** Stops the run; the reason is for people who look later. */
    public Run cancel(String reason) {
        Run run = client.cancel(runId(), reason).getRun();
        isStopped = true;
        return run;
    }

    /** Stops the run; waits so long for the ending, at most 60 s, and 0 does not wait. */
    public Run cancel(String reason, Duration wait) {
        Run run = client.cancel(runId(), reason, wait).getRun();
        isStopped = true;
        return run;
    }

    /**
     * Follows the run to its end and returns it, however it ended. Of a stream that was left it waits for the ending.
     * An error leaves the stream, so that this may be called without a block.
     */
    public Run result() {
        if (follower.finalRun().isEmpty() && isLeft) {
            follower.endWith(endingAfterwards());
        }
        try {
            while (hasNext()) {
                next();
            }
        } catch (MidstreamClientError error) {
            close();
            throw error;
        }
        return follower.finalRun().orElseThrow();
    }

    /**
     * As {@link #result}, for those to whom a failed run is an error. One that was CANCELLED is returned.
     *
     * @throws midstream.client.errors.RunFailed if the run ended FAILED
     */
    public Run resultOrThrow() {
        Run run = result();
        if (run.getState() == RunState.RUN_STATE_FAILED) {
            throw Statuses.errorOfRun(run);
        }
        return run;
    }

    /**
     * Leaves the stream: if the run has not ended, and this stream holds a claim, it is stopped. Waits at most 1 s for
     * the server to take the stop. Safe to call twice, and from another thread.
     */
    @Override
    public void close() {
        EventCall left;
        synchronized (lock) {
            if (isLeft) {
                return;
            }
            isLeft = true;
            lock.notifyAll();
            left = call;
        }
        if (question != null) {
            question.cancel(true);
        }
        try {
            if (!isStopped && follower.mustStop(isInFlight(left))) {
                client.leave(runId());
            }
        } finally {
            if (left != null && follower.finalRun().isEmpty()) {
                left.cancel();
            }
        }
    }

    /** Starts the next call. Under the lock, so that none starts after {@code close}. */
    private void open() {
        synchronized (lock) {
            checkOpen();
            CallOptions options = follower.remaining().map(Transport::within).orElse(CallOptions.DEFAULT);
            Opening opening = follower.nextOpening();
            context.run(() -> call = start(opening, options));
        }
    }

    private EventCall start(Opening opening, CallOptions options) {
        if (opening instanceof Opening.Watch watch) {
            return EventCall.start(
                    transport.streams(), GenerationServiceGrpc.getWatchRunMethod(), options, watch.request());
        }
        GenerateRequest request = ((Opening.Start) opening).request();
        return EventCall.start(transport.streams(), GenerationServiceGrpc.getGenerateMethod(), options, request);
    }

    /** Takes one event, or what came in its place. */
    private void receive() {
        EventCall current = call;
        if (current == null) {
            open();
            return;
        }
        try {
            current.take().ifPresentOrElse(event -> pending.addAll(follower.accept(event)), this::noteEnd);
        } catch (StatusRuntimeException error) {
            lose(Statuses.errorOfCall(error));
        } catch (InterruptedException interrupt) {
            throw interrupted();
        }
    }

    /** A call ended with status OK before a last event: the run was over before, or the call was cut off. */
    private void noteEnd() {
        if (!hasSeenTheEnd()) {
            lose(new ConnectionLost(ErrorDetails.of("the stream ended before the run did", Status.Code.UNAVAILABLE)));
        }
    }

    private boolean hasSeenTheEnd() {
        return lastSequence() > 0 && ask().filter(follower::endAt).isPresent();
    }

    /** The run; empty if it cannot be had, or the stream is left meanwhile. */
    private Optional<Run> ask() {
        synchronized (lock) {
            checkOpen();
            Duration limit = follower.remaining().orElse(AFTERWARDS);
            context.run(() -> question = client.ask(runId(), limit));
        }
        try {
            return Optional.of(question.get());
        } catch (InterruptedException interrupt) {
            question.cancel(true);
            throw interrupted();
        } catch (CancellationException | ExecutionException error) {
            LOGGER.log(System.Logger.Level.DEBUG, () -> "run " + runId() + ": not known whether it ended: " + error);
            return Optional.empty(); // the next call finds out
        }
    }

    private void lose(MidstreamClientError error) {
        follower.noteEnded(error);
        synchronized (lock) {
            call = null;
        }
        checkOpen();
        if (context.isCancelled()) {
            throw follower.withPlace(Statuses.errorOfCall(statusFromCancelled(context).asRuntimeException()));
        }
        Duration delay = follower.lost(error);
        LOGGER.log(System.Logger.Level.DEBUG, () -> "run " + runId() + ": resuming in " + delay + " after " + error);
        try {
            pause(delay);
        } catch (InterruptedException interrupt) {
            throw interrupted();
        }
    }

    private void checkOpen() {
        if (isLeft || transport.isClosed()) {
            throw follower.withPlace(new StreamClosed(ErrorDetails.of("")));
        }
    }

    /** Waits, unless the stream is left or its context is cancelled before. */
    private void pause(Duration delay) throws InterruptedException {
        Context.CancellationListener waker = cancelled -> {
            synchronized (lock) {
                lock.notifyAll();
            }
        };
        long end = System.nanoTime() + delay.toNanos();
        context.addListener(waker, Runnable::run);
        try {
            synchronized (lock) {
                for (long left = delay.toNanos(); left > 0 && !isLeft && !context.isCancelled();
                        left = end - System.nanoTime()) {
                    TimeUnit.NANOSECONDS.timedWait(lock, left);
                }
            }
        } finally {
            context.removeListener(waker);
        }
    }

    private Interrupted interrupted() {
        Thread.currentThread().interrupt();
        return follower.withPlace(new Interrupted(ErrorDetails.of("")));
    }

    private boolean isInFlight(EventCall left) {
        if (left == null || left.isActive()) {
            return left != null;
        }
        left.failure().ifPresent(failure -> follower.noteEnded(Statuses.errorOfCall(failure)));
        return false;
    }

    private Run endingAfterwards() {
        Run run = client.get(runId(), AFTERWARDS);
        if (!Runs.isEnded(run)) {
            throw follower.withPlace(
                    new StreamClosed(ErrorDetails.of("the stream was left, and the run has not ended since")));
        }
        return run;
    }
}
