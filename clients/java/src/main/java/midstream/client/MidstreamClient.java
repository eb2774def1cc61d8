package midstream.client;

import io.grpc.CallOptions;
import io.grpc.ChannelCredentials;
import io.grpc.Context;
import io.grpc.InsecureChannelCredentials;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.ClientCalls;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.Interrupted;
import midstream.client.errors.MidstreamClientError;
import midstream.client.errors.StreamClosed;
import midstream.v1.CancelRequest;
import midstream.v1.CancelResponse;
import midstream.v1.DeleteRunRequest;
import midstream.v1.GenerateRequest;
import midstream.v1.GenerationServiceGrpc;
import midstream.v1.GetRunRequest;
import midstream.v1.ListModelsRequest;
import midstream.v1.ListModelsResponse;
import midstream.v1.ListRunsRequest;
import midstream.v1.ListRunsResponse;
import midstream.v1.Message;
import midstream.v1.MessageView;
import midstream.v1.Run;

/** Runs generations on a Midstream server. Threads may share it. Every method throws {@link MidstreamClientError}. */
public final class MidstreamClient implements AutoCloseable {
    private static final System.Logger LOGGER = System.getLogger("midstream.client");
    private static final Duration DEFAULT_CANCEL_WAIT = Duration.ofSeconds(5);
    /** The longest wait of one call. */
    private static final Duration MAX_WAIT = Duration.ofSeconds(60);
    /** Between two of them, should the server answer before the wait is over: one that goes away may. */
    private static final Duration MIN_PAUSE = Duration.ofMillis(100);
    /** How long leaving a stream waits for the server to take the stop. */
    private static final Duration LEAVE_TIME = Duration.ofSeconds(1);

    private final Transport transport;
    private final Duration requestTime;
    private final Duration resumeTime;

    private MidstreamClient(Builder builder) {
        transport = new Transport(builder.target, builder.credentials, builder.serverName, builder.apiKey);
        requestTime = builder.requestTime;
        resumeTime = builder.resumeTime;
    }

    /** A client in plain text, without a key; nothing is connected before the first call. */
    public static MidstreamClient connect(String target) {
        return builder(target).build();
    }

    /** A client for {@code host:port}, or any name that gRPC resolves. */
    public static Builder builder(String target) {
        return new Builder(target);
    }

    /** Starts a run for a prompt and follows it: {@code try (RunStream run = client.generate(…))}. */
    public RunStream generate(String model, String prompt) {
        return generate(model, prompt, GenerateOptions.defaults());
    }

    /** Starts a run for a prompt. */
    public RunStream generate(String model, String prompt, GenerateOptions options) {
        return generate(model, List.of(Messages.user(prompt)), options);
    }

    /** Starts a run for a conversation, oldest message first. */
    public RunStream generate(String model, List<Message> messages) {
        return generate(model, messages, GenerateOptions.defaults());
    }

    /** Starts a run for a conversation. The model is {@code <upstream>/<name>} or an alias. */
    public RunStream generate(String model, List<Message> messages, GenerateOptions options) {
        GenerateRequest request = options.toRequest(model, messages);
        return stream(new Opening.Start(request), GenerateOptions.resumeTime(request), options.timeout());
    }

    /** Follows a run that exists from its start, as an observer: leaving does not stop it. */
    public RunStream watch(String runId) {
        return watch(runId, WatchOptions.defaults());
    }

    /** Follows a run that exists. */
    public RunStream watch(String runId, WatchOptions options) {
        Opening opening = new Opening.Watch(options.toRequest(runId));
        return stream(opening, GenerateOptions.DEFAULT_GRACE, options.timeout());
    }

    /** Stops a run, which need not exist yet, and returns it with its partial message; waits at most 5 s. */
    public CancelResponse cancel(String runId) {
        return cancel(runId, "");
    }

    /** Stops a run; the reason, at most 512 bytes, is for people who look later. */
    public CancelResponse cancel(String runId, String reason) {
        return cancel(CancelRequest.newBuilder().setRunId(runId).setReason(reason).build(), DEFAULT_CANCEL_WAIT);
    }

    /** Stops a run; waits so long for its ending, at most 60 s, and 0 does not wait. Repeated, it changes nothing. */
    public CancelResponse cancel(String runId, String reason, Duration wait) {
        return cancel(cancelRequest(runId, reason, wait), wait);
    }

    /** A run with its message so far. */
    public Run get(String runId) {
        return get(runId, MessageView.MESSAGE_VIEW_AS_STREAMED);
    }

    /** A run, its message shown in a way; REPLAY is safe to send back to a model. */
    public Run get(String runId, MessageView view) {
        return call(GenerationServiceGrpc.getGetRunMethod(), getRequest(runId, view).build(), Duration.ZERO);
    }

    /** A run when it has ended, or as it stands after so long a wait, which may be as long as you like. */
    public Run get(String runId, Duration wait) {
        return get(runId, MessageView.MESSAGE_VIEW_AS_STREAMED, wait);
    }

    /** A run when it has ended, or as it stands after the wait, its message shown in a way. */
    public Run get(String runId, MessageView view, Duration wait) {
        long deadline = System.nanoTime() + wait.toNanos();
        while (true) {
            Duration left = Duration.ofNanos(Math.max(0, deadline - System.nanoTime()));
            Duration turn = left.compareTo(MAX_WAIT) < 0 ? left : MAX_WAIT;
            GetRunRequest request = getRequest(runId, view)
                    .setWaitUntilFinished(true)
                    .setMaxWait(Durations.toProto(turn))
                    .build();
            Run run = call(GenerationServiceGrpc.getGetRunMethod(), request, turn);
            long rest = deadline - System.nanoTime();
            if (Runs.isEnded(run) || rest <= 0) {
                return run;
            }
            pause(Math.min(rest, MIN_PAUSE.toNanos()));
        }
    }

    /** All runs without their messages, newest first. */
    public Iterable<Run> list() {
        return list(ListFilters.none());
    }

    /** Runs without their messages, newest first; page after page as they are iterated over. */
    public Iterable<Run> list(ListFilters filters) {
        return () -> new RunPages(token -> listPage(filters.toRequest(token)));
    }

    /** Deletes the content of a run that has ended. */
    public void delete(String runId) {
        DeleteRunRequest request = DeleteRunRequest.newBuilder().setRunId(runId).build();
        call(GenerationServiceGrpc.getDeleteRunMethod(), request, Duration.ZERO);
    }

    /** The models that the server knows by name, and the upstreams that did not tell theirs. */
    public ListModelsResponse models() {
        ListModelsRequest request = ListModelsRequest.getDefaultInstance();
        return call(GenerationServiceGrpc.getListModelsMethod(), request, Duration.ZERO);
    }

    /** Closes the connections. Streams that are open end with StreamClosed; their runs go by {@code onDetach}. */
    @Override
    public void close() {
        transport.close();
    }

    /** Stops a run that a stream leaves, as far as that can be done in a second; also on an interrupted thread. */
    void leave(String runId) {
        if (transport.isClosed()) {
            LOGGER.log(System.Logger.Level.WARNING, "run {0}: the client was closed before the stream", runId);
            return;
        }
        CancelRequest request = cancelRequest(runId, "the client left the stream", Duration.ZERO);
        CallOptions options = Transport.within(LEAVE_TIME).withWaitForReady();
        Future<CancelResponse> answer = outsideOfContext(() -> ClientCalls.futureUnaryCall(
                transport.control().newCall(GenerationServiceGrpc.getCancelMethod(), options), request));
        Waits.uninterruptibly(LEAVE_TIME.multipliedBy(2), left -> {
            try {
                answer.get(left, TimeUnit.NANOSECONDS);
            } catch (ExecutionException | TimeoutException error) {
                String format = "run {0}: the stop did not reach the server: {1}";
                LOGGER.log(System.Logger.Level.WARNING, format, runId, error);
            }
        });
    }

    /** Asks for a run, in a way that can be given up; takes no longer than the limit. */
    Future<Run> ask(String runId, Duration limit) {
        Duration time = limit.compareTo(requestTime) < 0 ? limit : requestTime;
        GetRunRequest request = getRequest(runId, MessageView.MESSAGE_VIEW_AS_STREAMED).build();
        return ClientCalls.futureUnaryCall(
                transport.control().newCall(GenerationServiceGrpc.getGetRunMethod(), Transport.within(time)), request);
    }

    private static void pause(long nanoseconds) {
        try {
            TimeUnit.NANOSECONDS.sleep(nanoseconds);
        } catch (InterruptedException interrupt) {
            Thread.currentThread().interrupt();
            throw new Interrupted(ErrorDetails.of(""));
        }
    }

    /** A stop has to go out although the caller's own context is cancelled: that may be why. */
    private static <T> T outsideOfContext(Supplier<T> call) {
        Context previous = Context.ROOT.attach();
        try {
            return call.get();
        } finally {
            Context.ROOT.detach(previous);
        }
    }

    private RunStream stream(Opening opening, Duration defaultResumeTime, Duration timeout) {
        Duration time = resumeTime == null ? defaultResumeTime : resumeTime;
        Follower follower = new Follower(opening, time, timeout, System::nanoTime, Backoff.standard());
        return new RunStream(transport, this, follower);
    }

    private CancelResponse cancel(CancelRequest request, Duration wait) {
        return call(GenerationServiceGrpc.getCancelMethod(), request, wait);
    }

    private ListRunsResponse listPage(ListRunsRequest request) {
        return call(GenerationServiceGrpc.getListRunsMethod(), request, Duration.ZERO);
    }

    private static CancelRequest cancelRequest(String runId, String reason, Duration wait) {
        return CancelRequest.newBuilder()
                .setRunId(runId)
                .setReason(reason)
                .setWait(Durations.toProto(wait))
                .build();
    }

    private static GetRunRequest.Builder getRequest(String runId, MessageView view) {
        return GetRunRequest.newBuilder().setRunId(runId).setMessageView(view);
    }

    private <Q, A> A call(MethodDescriptor<Q, A> method, Q request, Duration wait) {
        if (transport.isClosed()) {
            throw new StreamClosed(ErrorDetails.of("the client is closed"));
        }
        try {
            CallOptions options = Transport.within(requestTime.plus(wait));
            return ClientCalls.blockingUnaryCall(transport.control(), method, options, request);
        } catch (StatusRuntimeException error) {
            throw errorOf(error);
        }
    }

    private MidstreamClientError errorOf(StatusRuntimeException error) {
        MidstreamClientError made = Statuses.errorOfCall(error);
        if (!made.reason().isEmpty() || error.getStatus().getCode() != Status.Code.CANCELLED) {
            return transport.isClosed() ? new StreamClosed(ErrorDetails.of("the client was closed")) : made;
        }
        return Thread.currentThread().isInterrupted() ? new Interrupted(ErrorDetails.of("")) : made;
    }

    /** How a client connects. */
    public static final class Builder {
        private final String target;
        private ChannelCredentials credentials = InsecureChannelCredentials.create();
        private String serverName;
        private String apiKey;
        private Duration requestTime = Duration.ofSeconds(10);
        private Duration resumeTime;

        private Builder(String target) {
            this.target = target;
        }

        /** Sent with every call as a bearer token. */
        public Builder apiKey(String key) {
            apiKey = key;
            return this;
        }

        /** Speaks TLS with the authorities that Java trusts. */
        public Builder tls() {
            return credentials(TlsChannelCredentials.create());
        }

        /** Speaks TLS with the authorities of a PEM file. */
        public Builder tls(Path authorities) throws IOException {
            return credentials(TlsChannelCredentials.newBuilder().trustManager(authorities.toFile()).build());
        }

        /** Speaks TLS as these say. */
        public Builder credentials(ChannelCredentials of) {
            credentials = of;
            return this;
        }

        /** The name that the server's certificate has, if it is not the one of the target. */
        public Builder serverName(String name) {
            serverName = name;
            return this;
        }

        /** How long a call that follows nothing may take, its own waiting not counted. Default: 10 s. */
        public Builder requestTimeout(Duration time) {
            requestTime = time;
            return this;
        }

        /** How long a lost connection is tried to be had again; 0 is not at all. Default: the run's grace, or 10 s. */
        public Builder resumeTimeout(Duration time) {
            resumeTime = time;
            return this;
        }

        /** The client. */
        public MidstreamClient build() {
            return new MidstreamClient(this);
        }
    }
}
