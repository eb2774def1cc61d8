package midstream.interop;

import java.time.Duration;
import midstream.v1.DetachPolicy;
import midstream.v1.GenerateRequest;
import midstream.v1.Message;
import midstream.v1.Part;
import midstream.v1.Role;
import midstream.v1.Text;

/**
 * A start of a run, as the scenarios mean it.
 *
 * @param request of the contract; the client's runner says the same through the library
 * @param deadline of the call; null is none
 */
record Start(GenerateRequest request, Duration deadline) {
    private static final Duration GRACE = Duration.ofSeconds(10);

    /** With a grace of 10 s. */
    static Start of(String runId, String model, String text) {
        Part part = Part.newBuilder().setText(Text.newBuilder().setText(text)).build();
        DetachPolicy grace = DetachPolicy.newBuilder()
                .setAction(DetachPolicy.Action.ACTION_GRACE)
                .setGrace(com.google.protobuf.Duration.newBuilder().setSeconds(GRACE.toSeconds()))
                .build();
        return new Start(
                GenerateRequest.newBuilder()
                        .setRunId(runId)
                        .setModel(model)
                        .addMessages(Message.newBuilder().setRole(Role.ROLE_USER).addParts(part))
                        .setOnDetach(grace)
                        .build(),
                null);
    }

    /** With another request. */
    Start with(GenerateRequest.Builder changed) {
        return new Start(changed.build(), deadline);
    }

    /** As {@code on_detach} CANCEL. */
    Start cancelledByLeaving() {
        DetachPolicy cancel = DetachPolicy.newBuilder().setAction(DetachPolicy.Action.ACTION_CANCEL).build();
        return with(request.toBuilder().setOnDetach(cancel));
    }

    Start within(Duration time) {
        return new Start(request, time);
    }
}
