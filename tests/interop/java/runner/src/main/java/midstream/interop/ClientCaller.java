package midstream.interop;

import io.grpc.Status;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import midstream.client.GenerateOptions;
import midstream.client.ListFilters;
import midstream.client.MidstreamClient;
import midstream.client.WatchOptions;
import midstream.client.errors.MidstreamClientError;
import midstream.v1.CancelResponse;
import midstream.v1.GenerateRequest;
import midstream.v1.ListModelsResponse;
import midstream.v1.MessageView;
import midstream.v1.Run;
import midstream.v1.RunState;
import midstream.v1.Tool;
import midstream.v1.WatchRunRequest;

/** Through the client library. */
final class ClientCaller implements Caller {
    private static final Duration ENDING = Duration.ofSeconds(15);
    private static final Duration PATIENCE = Duration.ofSeconds(40);
    final MidstreamClient client;

    ClientCaller(String target, Configuration.Tls tls, String apiKey, boolean isPatient) {
        MidstreamClient.Builder builder = MidstreamClient.builder(target).apiKey(apiKey);
        if (isPatient) {
            builder.resumeTimeout(PATIENCE);
        }
        try {
            if (tls != null) {
                builder.tls(Path.of(tls.authorities())).serverName(tls.serverName());
            }
            client = builder.build();
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    @Override
    public Reader start(Start start) {
        GenerateRequest request = start.request();
        return answered(() -> new ClientReader(
                client.generate(request.getModel(), request.getMessagesList(), options(start)), 0, false, true));
    }

    @Override
    public Reader watch(WatchRunRequest request) {
        WatchOptions options = WatchOptions.defaults();
        if (request.getFromSnapshot()) {
            return new ClientReader(client.watch(request.getRunId(), options.fromSnapshot()), 0, true, true);
        }
        long after = request.getAfterSequence();
        WatchOptions wanted = request.hasAfterSequence() ? options.afterSequence(after) : options;
        return new ClientReader(client.watch(request.getRunId(), wanted), after, false, after == 0);
    }

    @Override
    public CancelResponse cancel(String runId, String reason) {
        return answered(() -> client.cancel(runId, reason));
    }

    @Override
    public Run get(String runId, MessageView view) {
        return answered(() -> client.get(runId, view));
    }

    @Override
    public Run getEnded(String runId) {
        return answered(() -> client.get(runId, ENDING));
    }

    @Override
    public List<Run> list(String group, RunState state, int pageSize) {
        ListFilters filters = ListFilters.none().labels(Map.of("group", group)).state(state).pageSize(pageSize);
        return answered(() -> StreamSupport.stream(client.list(filters).spliterator(), false).toList());
    }

    @Override
    public void delete(String runId) {
        answered(() -> {
            client.delete(runId);
            return runId;
        });
    }

    @Override
    public ListModelsResponse models() {
        return answered(client::models);
    }

    @Override
    public void close() {
        client.close();
    }

    /** The library's error, which must be of the class that is named like its reason. */
    static CallFailed failed(MidstreamClientError error) {
        String name = Stream.of(error.reason().split("_"))
                .map(word -> word.isEmpty() ? "" : word.charAt(0) + word.substring(1).toLowerCase(Locale.ROOT))
                .collect(Collectors.joining());
        Checks.that(error.reason().isEmpty() || error.getClass().getSimpleName().equals(name), error.toString());
        List<Map.Entry<String, String>> violations = error.fieldViolations().stream()
                .map(each -> Map.entry(each.field(), each.description()))
                .toList();
        return new CallFailed(error.code().orElse(Status.Code.UNKNOWN), error.reason(), violations, error);
    }

    private static GenerateOptions options(Start start) {
        GenerateRequest request = start.request();
        GenerateOptions options = GenerateOptions.defaults()
                .runId(request.getRunId())
                .onDetach(request.getOnDetach())
                .labels(request.getLabelsMap())
                .tools(request.getToolsList().toArray(Tool[]::new))
                .conversation(request.getConversationId())
                .onConflict(request.getOnConflict())
                .timeout(start.deadline());
        options = request.hasLimits() ? options.limits(request.getLimits()) : options;
        return request.hasParameters() ? options.parameters(request.getParameters()) : options;
    }

    private static <T> T answered(Supplier<T> call) {
        try {
            return call.get();
        } catch (MidstreamClientError error) {
            throw failed(error);
        }
    }
}
