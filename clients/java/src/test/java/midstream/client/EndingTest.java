package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.RetryInfo;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import midstream.client.errors.DeadlineExceeded;
import midstream.client.errors.Interrupted;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.StreamClosed;
import midstream.client.errors.StreamGapError;
import midstream.v1.CancelRequest;
import midstream.v1.GetRunRequest;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunState;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Streams that end well before RunFinished: the run is asked for, and the answer is checked, and not waited for. */
@Timeout(8) // GetRun alone may take 10 s
class EndingTest {
    private final ScriptedServer server = new ScriptedServer();
    private final MidstreamClient client = MidstreamClient.connect(server.target());
    private final ExecutorService executor = Executors.newCachedThreadPool();
    private final CountDownLatch asked = new CountDownLatch(1);

    @BeforeEach
    void cutOffAndDoNotAnswer() {
        server.onGenerate = (request, answer) -> {
            begin(answer);
            answer.onCompleted();
        };
        server.onGet = answer -> asked.countDown();
    }

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

    private long cancels() {
        return server.requests.stream().filter(CancelRequest.class::isInstance).count();
    }

    /** Though its sequence is right; and the run has ended, so there is nothing to stop. */
    @Test
    void anEndingThatIsNotWhatWasReceivedIsTold() {
        server.onGet = answer -> ScriptedServer.answer(answer, Events.run(2, RunState.RUN_STATE_FAILED, "AB"));
        try (RunStream run = client.generate("m", "hi")) {
            run.next();
            assertEquals(2, assertThrows(StreamGapError.class, run::hasNext).lastSequence());
        }

        assertEquals(0, cancels());
    }

    /** Whoever iterates is told, and the run is stopped. */
    @Test
    void closingDoesNotWaitForTheAnswer() throws InterruptedException {
        RunStream run = client.generate("m", "hi");
        CompletableFuture<Run> result = CompletableFuture.supplyAsync(run::result, executor);
        asked.await();

        run.close();

        ExecutionException error = assertThrows(ExecutionException.class, result::get);
        assertInstanceOf(StreamClosed.class, error.getCause());
        assertEquals(1, cancels());
    }

    /** The thread is free at once, and reading on asks again. */
    @Test
    void anInterruptLosesNothing() throws Exception {
        CompletableFuture<Thread> thread = new CompletableFuture<>();
        CompletableFuture<String> text = CompletableFuture.supplyAsync(() -> {
            thread.complete(Thread.currentThread());
            try (RunStream run = client.generate("m", "hi")) {
                run.next();
                assertThrows(Interrupted.class, run::hasNext);
                assertTrue(Thread.interrupted());
                server.onGet = answer ->
                        ScriptedServer.answer(answer, Events.run(2, RunState.RUN_STATE_CANCELLED, "ab"));
                assertFalse(run.hasNext());
                return run.text();
            }
        }, executor);
        asked.await();

        thread.get().interrupt();

        assertEquals("ab", text.get());
        assertEquals(0, cancels());
    }

    /** The caller's own cancel is told as that, and the run is stopped. */
    @Test
    void aCancelledContextDoesNotWaitForTheAnswer() throws InterruptedException {
        Context.CancellableContext context = Context.current().withCancellation();
        RunStream[] run = new RunStream[1];
        context.run(() -> run[0] = client.generate("m", "hi"));
        CompletableFuture<Run> result = CompletableFuture.supplyAsync(run[0]::result, executor);
        asked.await();

        context.cancel(null);

        ExecutionException failure = assertThrows(ExecutionException.class, result::get);
        MidstreamClientError error = assertInstanceOf(MidstreamClientError.class, failure.getCause());
        assertEquals(Status.Code.CANCELLED, error.code().orElseThrow());
        assertEquals(1, cancels());
    }

    /** The deadline is the caller's, also here. */
    @Test
    void theDeadlineDoesNotWaitForTheAnswer() {
        GenerateOptions options = GenerateOptions.defaults().timeout(Duration.ofMillis(500));

        assertThrows(DeadlineExceeded.class, () -> client.generate("m", "hi", options).result());

        assertEquals(1, cancels());
    }

    /** A server may ask for a long wait; who cancels meanwhile is not kept. */
    @Test
    void aCancelledContextEndsTheWaitBeforeTheNextCall() throws InterruptedException {
        CountDownLatch refused = new CountDownLatch(1);
        RetryInfo retry = RetryInfo.newBuilder()
                .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(9))
                .build();
        server.onGenerate = (request, answer) -> {
            begin(answer);
            answer.onError(StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                    .setCode(Status.Code.UNAVAILABLE.value())
                    .addDetails(Any.pack(retry))
                    .build()));
            refused.countDown();
        };
        Context.CancellableContext context = Context.current().withCancellation();
        RunStream[] run = new RunStream[1];
        context.run(() -> run[0] = client.generate("m", "hi"));
        run[0].next();
        refused.await();
        CompletableFuture<Run> result = CompletableFuture.supplyAsync(run[0]::result, executor);

        context.cancel(null);

        ExecutionException failure = assertThrows(ExecutionException.class, result::get);
        MidstreamClientError error = assertInstanceOf(MidstreamClientError.class, failure.getCause());
        assertEquals(Status.Code.CANCELLED, error.code().orElseThrow());
    }

    /** There is a pause between its calls. */
    @Test
    void aWaitForAnEndingHurriesNobody() {
        server.onGet = answer -> ScriptedServer.answer(answer, Events.run(2, RunState.RUN_STATE_RUNNING, "ab"));

        Run run = client.get("r", Duration.ofMillis(250));

        assertEquals(RunState.RUN_STATE_RUNNING, run.getState());
        long calls = server.requests.stream().filter(GetRunRequest.class::isInstance).count();
        assertTrue(calls >= 2 && calls <= 5, calls + " calls");
    }
}
