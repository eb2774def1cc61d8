package midstream.client;

import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.function.BiConsumer;
import java.util.function.Consumer;
import midstream.v1.CancelRequest;
import midstream.v1.CancelResponse;
import midstream.v1.GenerateRequest;
import midstream.v1.GenerationServiceGrpc.GenerationServiceImplBase;
import midstream.v1.GetRunRequest;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunState;
import midstream.v1.WatchRunRequest;

/** A gRPC server on a port of its own that does what a test says. */
final class ScriptedServer extends GenerationServiceImplBase implements AutoCloseable {
    /** What came, in order. */
    final BlockingQueue<Object> requests = new LinkedBlockingQueue<>();
    /** Opens when a stream was cancelled by its client. */
    final CountDownLatch streamCancelled = new CountDownLatch(1);
    BiConsumer<GenerateRequest, StreamObserver<RunEvent>> onGenerate = (request, answer) -> { };
    BiConsumer<WatchRunRequest, StreamObserver<RunEvent>> onWatch = (request, answer) -> { };
    Consumer<StreamObserver<Run>> onGet = answer -> answer(answer, Events.run(3, RunState.RUN_STATE_COMPLETED, "ab"));
    boolean answersCancel = true;
    private final Server server;

    ScriptedServer() {
        InetSocketAddress address = new InetSocketAddress(InetAddress.getLoopbackAddress(), 0);
        server = NettyServerBuilder.forAddress(address).directExecutor().addService(this).build();
        try {
            server.start();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    String target() {
        return "127.0.0.1:" + server.getPort();
    }

    @Override
    public void generate(GenerateRequest request, StreamObserver<RunEvent> answer) {
        ((ServerCallStreamObserver<RunEvent>) answer).setOnCancelHandler(streamCancelled::countDown);
        requests.add(request);
        onGenerate.accept(request, answer);
    }

    @Override
    public void watchRun(WatchRunRequest request, StreamObserver<RunEvent> answer) {
        ((ServerCallStreamObserver<RunEvent>) answer).setOnCancelHandler(streamCancelled::countDown);
        requests.add(request);
        onWatch.accept(request, answer);
    }

    @Override
    public void cancel(CancelRequest request, StreamObserver<CancelResponse> answer) {
        requests.add(request);
        if (answersCancel) {
            answer.onNext(CancelResponse.getDefaultInstance());
            answer.onCompleted();
        }
    }

    @Override
    public void getRun(GetRunRequest request, StreamObserver<Run> answer) {
        requests.add(request);
        onGet.accept(answer);
    }

    static <T> void answer(StreamObserver<T> observer, T message) {
        observer.onNext(message);
        observer.onCompleted();
    }

    @Override
    public void close() {
        server.shutdownNow();
    }
}
