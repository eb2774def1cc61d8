package midstream.interop;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.Status;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.Supplier;
import midstream.v1.CancelRequest;
import midstream.v1.CancelResponse;
import midstream.v1.DeleteRunRequest;
import midstream.v1.GenerationServiceGrpc;
import midstream.v1.GenerationServiceGrpc.GenerationServiceBlockingStub;
import midstream.v1.GetRunRequest;
import midstream.v1.ListModelsRequest;
import midstream.v1.ListModelsResponse;
import midstream.v1.ListRunsRequest;
import midstream.v1.ListRunsResponse;
import midstream.v1.MessageDelta;
import midstream.v1.MessageView;
import midstream.v1.Part;
import midstream.v1.Run;
import midstream.v1.RunState;
import midstream.v1.WatchRunRequest;

/** Through the generated stubs, with one channel for streams and one for everything else. */
final class RawCaller implements Caller {
    private static final long CALL_SECONDS = 20;
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    /** The headers of the latest stream's answer. */
    final AtomicReference<Metadata> headers = new AtomicReference<>();
    private final ManagedChannel streamChannel;
    private final ManagedChannel controlChannel;
    private final GenerationServiceBlockingStub streams;
    private final GenerationServiceBlockingStub control;

    RawCaller(String target, Configuration.Tls tls, String apiKey) {
        streamChannel = channel(target, tls);
        controlChannel = channel(target, tls);
        streams = stub(streamChannel, apiKey).withInterceptors(
                MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>()));
        control = stub(controlChannel, apiKey);
    }

    @Override
    public Reader start(Start start) {
        GenerationServiceBlockingStub stub = start.deadline() == null
                ? streams
                : streams.withDeadlineAfter(start.deadline().toMillis(), TimeUnit.MILLISECONDS);
        boolean resumes = start.request().getOnDetach().hasGrace() && start.deadline() == null;
        return new RawReader(stub, each -> each.generate(start.request()), 0, true, resumes);
    }

    @Override
    public Reader watch(WatchRunRequest request) {
        boolean isWhole = !request.hasAfterSequence();
        return new RawReader(streams, each -> each.watchRun(request), request.getAfterSequence(), isWhole, false);
    }

    @Override
    public CancelResponse cancel(String runId, String reason) {
        return answered(() -> within().cancel(
                CancelRequest.newBuilder().setRunId(runId).setReason(reason).build()));
    }

    @Override
    public Run get(String runId, MessageView view) {
        return answered(() -> within().getRun(
                GetRunRequest.newBuilder().setRunId(runId).setMessageView(view).build()));
    }

    @Override
    public Run getEnded(String runId) {
        return answered(() -> within().getRun(
                GetRunRequest.newBuilder().setRunId(runId).setWaitUntilFinished(true).build()));
    }

    @Override
    public List<Run> list(String group, RunState state, int pageSize) {
        List<Run> runs = new ArrayList<>();
        String token = "";
        do {
            ListRunsResponse page = page(group, state, pageSize, token);
            Checks.that(!page.getNextPageToken().isEmpty() || page.getRunsCount() <= pageSize || pageSize == 0, "page");
            runs.addAll(page.getRunsList());
            token = page.getNextPageToken();
        } while (!token.isEmpty());
        return runs;
    }

    /** One page. */
    ListRunsResponse page(String group, RunState state, int pageSize, String token) {
        return answered(() -> within().listRuns(ListRunsRequest.newBuilder()
                .putLabels("group", group)
                .setState(state)
                .setPageSize(pageSize)
                .setPageToken(token)
                .build()));
    }

    @Override
    public void delete(String runId) {
        answered(() -> within().deleteRun(DeleteRunRequest.newBuilder().setRunId(runId).build()));
    }

    @Override
    public ListModelsResponse models() {
        return answered(() -> within().listModels(ListModelsRequest.getDefaultInstance()));
    }

    @Override
    public void close() {
        streamChannel.shutdownNow();
        controlChannel.shutdownNow();
    }

    /** A delta that makes the whole part; texts are all that the scenarios need. */
    static MessageDelta whole(int index, Part part) {
        MessageDelta.Builder delta = MessageDelta.newBuilder().setPartIndex(index);
        return part.hasText() ? delta.setText(part.getText().getText()).build() : delta.build();
    }

    static CallFailed failed(StatusRuntimeException error) {
        Status status = StatusProto.fromThrowable(error);
        List<ErrorInfo> infos = find(status, ErrorInfo.class);
        infos.forEach(info -> Checks.equal(info.getDomain(), "midstream.v1", "domain"));
        Checks.that(infos.size() <= 1, "more than one ErrorInfo: " + status);
        List<Map.Entry<String, String>> violations = find(status, BadRequest.class).stream()
                .flatMap(each -> each.getFieldViolationsList().stream())
                .map(each -> Map.entry(each.getField(), each.getDescription()))
                .toList();
        String reason = infos.isEmpty() ? "" : infos.get(0).getReason();
        return new CallFailed(error.getStatus().getCode(), reason, violations, error);
    }

    private static <T> T answered(Supplier<T> call) {
        try {
            return call.get();
        } catch (StatusRuntimeException error) {
            throw failed(error);
        }
    }

    private static <T extends Message> List<T> find(Status status, Class<T> kind) {
        List<T> found = new ArrayList<>();
        for (Any detail : status.getDetailsList()) {
            if (detail.is(kind)) {
                try {
                    found.add(detail.unpack(kind));
                } catch (InvalidProtocolBufferException error) {
                    throw new AssertionError("a detail cannot be read", error);
                }
            }
        }
        return found;
    }

    private GenerationServiceBlockingStub within() {
        return control.withDeadlineAfter(CALL_SECONDS, TimeUnit.SECONDS);
    }

    private static GenerationServiceBlockingStub stub(ManagedChannel channel, String apiKey) {
        GenerationServiceBlockingStub stub = GenerationServiceGrpc.newBlockingStub(channel);
        if (apiKey == null) {
            return stub;
        }
        Metadata metadata = new Metadata();
        metadata.put(AUTHORIZATION, "Bearer " + apiKey);
        return stub.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(metadata));
    }

    private static ManagedChannel channel(String target, Configuration.Tls tls) {
        // Without a pool of threads of its own, which would grow with the load: the harness counts threads.
        return Grpc.newChannelBuilder(target, credentials(tls)).directExecutor().build();
    }

    private static ChannelCredentials credentials(Configuration.Tls tls) {
        if (tls == null) {
            return InsecureChannelCredentials.create();
        }
        try {
            return TlsChannelCredentials.newBuilder().trustManager(new File(tls.authorities())).build();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }
}
