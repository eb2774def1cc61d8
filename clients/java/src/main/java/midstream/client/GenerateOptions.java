package midstream.client;

import com.google.protobuf.Struct;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import midstream.v1.ConversationPolicy;
import midstream.v1.DetachPolicy;
import midstream.v1.GenerateRequest;
import midstream.v1.GenerationParameters;
import midstream.v1.Message;
import midstream.v1.RunLimits;
import midstream.v1.Tool;
import midstream.v1.ToolChoice;

/** What {@code generate} takes besides the model and the messages. Never changes: each method returns another. */
public final class GenerateOptions {
    /** The grace of a run that says nothing else. */
    static final Duration DEFAULT_GRACE = Duration.ofSeconds(10);

    private static final GenerateOptions NONE = new GenerateOptions(
            GenerateRequest.newBuilder().setOnDetach(grace(DEFAULT_GRACE)).build(), null, null);

    private final GenerateRequest request;
    private final String system;
    private final Duration timeout;

    private GenerateOptions(GenerateRequest request, String system, Duration timeout) {
        this.request = request;
        this.system = system;
        this.timeout = timeout;
    }

    /** The defaults. */
    public static GenerateOptions defaults() {
        return NONE;
    }

    /** The run's id. Default: a new UUIDv7. A repeat with the same id and request follows the same run. */
    public GenerateOptions runId(String runId) {
        return with(request.toBuilder().setRunId(runId));
    }

    /** Text of a system message in front of the others. */
    public GenerateOptions system(String text) {
        return new GenerateOptions(request, text, timeout);
    }

    /** What the model may call. */
    public GenerateOptions tools(Tool... tools) {
        return with(request.toBuilder().clearTools().addAllTools(List.of(tools)));
    }

    /** Whether it must. */
    public GenerateOptions toolChoice(ToolChoice choice) {
        return with(request.toBuilder().setToolChoice(choice));
    }

    /** How to sample. */
    public GenerateOptions parameters(GenerationParameters parameters) {
        return with(request.toBuilder().setParameters(parameters));
    }

    /**
     * What happens when nobody follows the run any more. Default: GRACE of 10 s, so that a lost connection can be
     * resumed; leaving the stream stops the run at once all the same.
     */
    public GenerateOptions onDetach(DetachPolicy policy) {
        return with(request.toBuilder().setOnDetach(policy));
    }

    /** {@code onDetach} with a grace. */
    public GenerateOptions onDetach(Duration grace) {
        return onDetach(grace(grace));
    }

    /** {@code onDetach} without a grace: cancel, or continue. */
    public GenerateOptions onDetach(DetachPolicy.Action action) {
        return onDetach(DetachPolicy.newBuilder().setAction(action).build());
    }

    /** The caller's limits. */
    public GenerateOptions limits(RunLimits limits) {
        return with(request.toBuilder().setLimits(limits));
    }

    /** The conversation that the run belongs to. */
    public GenerateOptions conversation(String conversationId) {
        return with(request.toBuilder().setConversationId(conversationId));
    }

    /** What to do if other runs of the conversation are live. */
    public GenerateOptions onConflict(ConversationPolicy policy) {
        return with(request.toBuilder().setOnConflict(policy));
    }

    /** The id of a run whose partial message the model is to go on with. */
    public GenerateOptions continueFrom(String runId) {
        return with(request.toBuilder().setContinueFrom(runId));
    }

    /** The run that caused this one. */
    public GenerateOptions parentRun(String runId) {
        return with(request.toBuilder().setParentRunId(runId));
    }

    /** Recorded with the run. */
    public GenerateOptions labels(Map<String, String> labels) {
        return with(request.toBuilder().clearLabels().putAllLabels(labels));
    }

    /** How long the run is kept after its end. */
    public GenerateOptions retention(Duration retention) {
        return with(request.toBuilder().setRetention(Durations.toProto(retention)));
    }

    /** Added to the upstream's request as they are. */
    public GenerateOptions providerOptions(Struct options) {
        return with(request.toBuilder().setProviderOptions(options));
    }

    /** From the start until {@code DeadlineExceeded}, calls that resume the stream included. */
    public GenerateOptions timeout(Duration timeout) {
        return new GenerateOptions(request, system, timeout);
    }

    /** Null is for ever. */
    Duration timeout() {
        return timeout;
    }

    /** The request of a run. */
    GenerateRequest toRequest(String model, List<Message> messages) {
        GenerateRequest.Builder made = request.toBuilder().setModel(model);
        if (system != null) {
            made.addMessages(Messages.system(system));
        }
        if (made.getRunId().isEmpty()) {
            made.setRunId(RunIds.next());
        }
        return made.addAllMessages(messages).build();
    }

    /** How long a lost connection is worth resuming: the grace, where there is one. */
    static Duration resumeTime(GenerateRequest request) {
        DetachPolicy policy = request.getOnDetach();
        boolean hasGrace = policy.getAction() == DetachPolicy.Action.ACTION_GRACE;
        return hasGrace ? Durations.toJava(policy.getGrace()) : DEFAULT_GRACE;
    }

    private static DetachPolicy grace(Duration grace) {
        return DetachPolicy.newBuilder()
                .setAction(DetachPolicy.Action.ACTION_GRACE)
                .setGrace(Durations.toProto(grace))
                .build();
    }

    private GenerateOptions with(GenerateRequest.Builder changed) {
        return new GenerateOptions(changed.build(), system, timeout);
    }
}
