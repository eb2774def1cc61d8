package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import midstream.client.errors.Interrupted;
import midstream.client.errors.InvalidRequest;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.StreamClosed;
import midstream.client.errors.StreamGapError;
import midstream.v1.CancelRequest;
import midstream.v1.GenerateRequest;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunState;
import midstream.v1.WatchRunRequest;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Streams against a real gRPC server. */
@Timeout(20)
class RunStreamTest {
    private final ScriptedServer server = new ScriptedServer();
    private final MidstreamClient client = MidstreamClient.connect(server.target());
    private final ExecutorService executor = Executors.newCachedThreadPool();

    @AfterEach
    void stop() {
        client.close();
        executor.shutdownNow();
        server.close();
    }

    private static void begin(StreamObserver<RunEvent> answer) {
        answer.onNext(Events.started());
        answer.onNext(Events.delta(2, Events.text(0, 0, "ab")));
    }

    private static void end(StreamObserver<RunEvent> answer) {
        answer.onNext(Events.finished(3, "ab"));
        answer.onCompleted();
    }

    private static Throwable failure(Status.Code code, String reason) {
        ErrorInfo info = ErrorInfo.newBuilder().setDomain("midstream.v1").setReason(reason).build();
        return StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                .setCode(code.value())
                .addDetails(Any.pack(info))
                .build());
    }

    private <T> T next(Class<T> kind) throws InterruptedException {
        return assertInstanceOf(kind, server.requests.poll(10, TimeUnit.SECONDS));
    }

    /** Leaving sends a Cancel that does not wait, and then cancels the call. */
    @Test
    void leavingStopsTheRun() throws InterruptedException {
        server.onGenerate = (request, answer) -> begin(answer);
        try (RunStream run = client.generate("m", "hi")) {
            assertEquals("ab", run.next().text());
        }

        GenerateRequest start = next(GenerateRequest.class);
        CancelRequest cancel = next(CancelRequest.class);
        assertEquals(start.getRunId(), cancel.getRunId());
        assertTrue(cancel.hasWait() && cancel.getWait().getSeconds() == 0);
        assertTrue(server.streamCancelled.await(10, TimeUnit.SECONDS));
    }

    /** A server that takes no Cancel keeps nobody longer than about a second. */
    @Test
    void leavingIsBounded() {
        server.onGenerate = (request, answer) -> begin(answer);
        server.answersCancel = false;
        RunStream run = client.generate("m", "hi");
        run.next();

        long start = System.nanoTime();
        run.close();

        long milliseconds = Duration.ofNanos(System.nanoTime() - start).toMillis();
        assertTrue(milliseconds >= 900 && milliseconds < 5_000, milliseconds + " ms");
    }

    /** Nobody's run is stopped when the server refused this one. */
    @Test
    void leavingARefusedStartStopsNothing() throws InterruptedException {
        Throwable refusal = failure(Status.Code.INVALID_ARGUMENT, "INVALID_REQUEST");
        server.onGenerate = (request, answer) -> answer.onError(refusal);
        try (RunStream run = client.generate("m", "hi")) {
            assertThrows(InvalidRequest.class, run::hasNext);
        }

        next(GenerateRequest.class);
        assertNull(server.requests.poll());
    }

    /** After the end there is nothing to stop. */
    @Test
    void leavingAfterTheEndStopsNothing() throws InterruptedException {
        server.onGenerate = (request, answer) -> {
            begin(answer);
            end(answer);
        };
        try (RunStream run = client.generate("m", "hi")) {
            List<String> texts = new ArrayList<>();
            run.forEach(delta -> texts.add(delta.text()));
            assertEquals(List.of("ab"), texts);
            assertEquals(RunState.RUN_STATE_COMPLETED, run.result().getState());
        }

        next(GenerateRequest.class);
        assertNull(server.requests.poll());
    }

    /** An interrupt ends the wait, keeps the flag, loses nothing, and the stop is sent on the interrupted thread. */
    @Test
    void anInterruptLeavesTheBlock() throws Exception {
        BlockingQueue<StreamObserver<RunEvent>> answers = new LinkedBlockingQueue<>();
        server.onGenerate = (request, answer) -> answers.add(answer);
        CompletableFuture<Thread> thread = new CompletableFuture<>();
        CompletableFuture<Boolean> isInterrupted = CompletableFuture.supplyAsync(() -> {
            thread.complete(Thread.currentThread());
            try (RunStream run = client.generate("m", "hi")) {
                assertThrows(Interrupted.class, run::hasNext);
            }
            return Thread.interrupted();
        }, executor);

        answers.take();
        next(GenerateRequest.class);
        thread.get().interrupt();

        next(CancelRequest.class);
        assertTrue(isInterrupted.get());
    }

    /** In a server's handler whose caller has left, the stream ends at once, and the run is stopped all the same. */
    @Test
    void aCancelledContextLeavesTheBlock() throws InterruptedException {
        server.onGenerate = (request, answer) -> begin(answer);
        Context.CancellableContext context = Context.current().withCancellation();
        context.run(() -> {
            try (RunStream run = client.generate("m", "hi")) {
                run.next();
                context.cancel(null);
                MidstreamClientError error = assertThrows(MidstreamClientError.class, run::next);
                assertEquals(Status.Code.CANCELLED, error.code().orElseThrow());
            }
        });

        next(GenerateRequest.class);
        next(CancelRequest.class);
        assertNull(server.requests.poll());
    }

    /** Reading on after an interrupt goes on where it was. */
    @Test
    void anInterruptLosesNothing() {
        server.onGenerate = (request, answer) -> {
            begin(answer);
            end(answer);
        };
        try (RunStream run = client.generate("m", "hi")) {
            Thread.currentThread().interrupt();
            assertThrows(Interrupted.class, run::hasNext);
            assertTrue(Thread.interrupted());

            assertEquals("ab", run.next().text());
            assertFalse(run.hasNext());
        }
    }

    /** A reader that waits hears that another thread has left. */
    @Test
    void closingFromAnotherThreadEndsTheWait() throws Exception {
        server.onGenerate = (request, answer) -> begin(answer);
        RunStream run = client.generate("m", "hi");
        run.next();
        CompletableFuture<Boolean> waiting = CompletableFuture.supplyAsync(run::hasNext, executor);

        run.close();

        ExecutionException error = assertThrows(ExecutionException.class, waiting::get);
        StreamClosed closed = assertInstanceOf(StreamClosed.class, error.getCause());
        assertEquals("ab", closed.partial().orElseThrow().getParts(0).getText().getText());
        assertEquals(Events.run(3, RunState.RUN_STATE_COMPLETED, "ab"), run.result());
    }

    /** Each way of losing the place is resumed from the last sequence, with the claim. */
    @Test
    void aLostPlaceIsResumed() throws InterruptedException {
        List<Throwable> losses = List.of(
                failure(Status.Code.UNAVAILABLE, "DRAINING"),
                failure(Status.Code.ABORTED, "SLOW_READER"),
                Status.INTERNAL.asRuntimeException(),
                Status.UNAVAILABLE.asRuntimeException());
        for (Throwable loss : losses) {
            server.onGenerate = (request, answer) -> {
                begin(answer);
                answer.onError(loss);
            };
            server.onWatch = (request, answer) -> end(answer);
            Run run = client.generate("m", "hi").result();

            assertEquals("ab", Runs.text(run));
            String id = next(GenerateRequest.class).getRunId();
            WatchRunRequest watch = WatchRunRequest.newBuilder()
                    .setRunId(id).setAfterSequence(2).setClaim(true).build();
            assertEquals(watch, next(WatchRunRequest.class));
        }
    }

    /** A start that was not answered is sent again as it was. */
    @Test
    void anUnansweredStartIsRepeated() throws InterruptedException {
        BlockingQueue<GenerateRequest> starts = new LinkedBlockingQueue<>();
        server.onGenerate = (request, answer) -> {
            starts.add(request);
            if (starts.size() == 1) {
                answer.onError(Status.UNAVAILABLE.asRuntimeException());
            } else {
                begin(answer);
                end(answer);
            }
        };

        client.generate("m", "hi").result();

        assertEquals(starts.take(), starts.take());
    }

    /** A call that ends well before the run did is asked about, and its run is the ending. */
    @Test
    void aStreamThatEndsAtTheCursorHasTheRunForItsEnding() {
        server.onWatch = (request, answer) -> answer.onCompleted();

        try (RunStream run = client.watch("r", WatchOptions.defaults().afterSequence(3))) {
            assertFalse(run.hasNext());
            assertEquals("ab", run.text());
        }
    }

    /** A gap is told with what was received, and leaves the run to the block. */
    @Test
    void aGapIsTold() throws InterruptedException {
        server.onGenerate = (request, answer) -> {
            begin(answer);
            answer.onNext(Events.delta(4, Events.text(0, 9, "x")));
        };
        try (RunStream run = client.generate("m", "hi")) {
            run.next();
            StreamGapError error = assertThrows(StreamGapError.class, run::next);
            assertEquals(2, error.lastSequence());
            assertEquals("ab", run.text());
        }

        next(GenerateRequest.class);
        next(CancelRequest.class);
    }

    /** Nothing is started on a client that was closed, and what is open ends. */
    @Test
    void aClosedClientEndsItsStreams() {
        server.onGenerate = (request, answer) -> begin(answer);
        RunStream run = client.generate("m", "hi");
        run.next();

        client.close();

        assertThrows(StreamClosed.class, run::next);
        assertThrows(StreamClosed.class, () -> client.generate("m", "hi"));
        assertThrows(StreamClosed.class, () -> client.get("r"));
        run.close();
    }

    /** A subscriber gets what it asks for, no more, and then the end. */
    @Test
    void aPublisherDeliversOnDemand() throws Exception {
        server.onGenerate = (request, answer) -> {
            answer.onNext(Events.started());
            answer.onNext(Events.delta(2, Events.text(0, 0, "a")));
            answer.onNext(Events.delta(3, Events.text(0, 1, "b")));
            answer.onNext(Events.finished(4, "ab"));
            answer.onCompleted();
        };
        Collector collector = new Collector();
        client.generate("m", "hi").publisher(executor).subscribe(collector);
        Flow.Subscription subscription = collector.subscription.get();

        subscription.request(1);
        assertEquals("a", collector.signals.take());
        assertNull(collector.signals.poll());
        subscription.request(5);
        assertEquals("b", collector.signals.take());
        assertEquals("end", collector.signals.take());
    }

    /** A subscription that is cancelled stops the run. */
    @Test
    void cancellingASubscriptionStopsTheRun() throws Exception {
        server.onGenerate = (request, answer) -> begin(answer);
        Collector collector = new Collector();
        client.generate("m", "hi").publisher(executor).subscribe(collector);
        collector.subscription.get().request(9);
        assertEquals("ab", collector.signals.take());

        collector.subscription.get().cancel();

        next(GenerateRequest.class);
        next(CancelRequest.class);
        assertNull(collector.signals.poll());
    }

    /** A subscriber that throws is taken for gone. */
    @Test
    void aSubscriberThatThrowsStopsTheRun() throws Exception {
        server.onGenerate = (request, answer) -> begin(answer);
        CompletableFuture<Throwable> thrown = new CompletableFuture<>();
        Collector collector = new Collector() {
            @Override
            public void onNext(Delta delta) {
                throw new IllegalStateException("broken");
            }
        };
        client.generate("m", "hi").publisher(task -> executor.execute(() -> {
            try {
                task.run();
            } catch (IllegalStateException error) {
                thrown.complete(error);
            }
        })).subscribe(collector);

        collector.subscription.get().request(1);

        assertEquals("broken", thrown.get().getMessage());
        next(GenerateRequest.class);
        next(CancelRequest.class);
        assertNull(collector.signals.poll());
    }

    private static class Collector implements Flow.Subscriber<Delta> {
        final CompletableFuture<Flow.Subscription> subscription = new CompletableFuture<>();
        final BlockingQueue<String> signals = new LinkedBlockingQueue<>();

        @Override
        public void onSubscribe(Flow.Subscription given) {
            subscription.complete(given);
        }

        @Override
        public void onNext(Delta delta) {
            signals.add(delta.text());
        }

        @Override
        public void onError(Throwable error) {
            signals.add("error " + error);
        }

        @Override
        public void onComplete() {
            signals.add("end");
        }
    }
}
