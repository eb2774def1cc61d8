package midstream.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnknownFieldSet;
import java.nio.charset.StandardCharsets;
import midstream.v1.Message;
import midstream.v1.MessageDelta;
import midstream.v1.Part;
import midstream.v1.PartState;
import midstream.v1.Role;
import midstream.v1.Run;
import midstream.v1.RunEvent;
import midstream.v1.RunFinished;
import midstream.v1.RunStarted;
import midstream.v1.RunState;
import midstream.v1.Text;

/** Events of runs, for tests. */
final class Events {
    private static final int UNKNOWN_FIELD = 500;

    private Events() {
    }

    static MessageDelta text(int part, long offset, String text) {
        return MessageDelta.newBuilder().setPartIndex(part).setOffset(offset).setText(text).build();
    }

    static RunEvent started() {
        return RunEvent.newBuilder().setSequence(1).setStarted(RunStarted.newBuilder().setRunId("r")).build();
    }

    static RunEvent delta(long sequence, MessageDelta delta) {
        return RunEvent.newBuilder().setSequence(sequence).setDelta(delta).build();
    }

    static RunEvent merged(long first, long last, MessageDelta delta) {
        return delta(last, delta).toBuilder().setFirstSequence(first).build();
    }

    static RunEvent finished(long sequence, String text) {
        return RunEvent.newBuilder()
                .setSequence(sequence)
                .setFinished(RunFinished.newBuilder().setRun(run(sequence, RunState.RUN_STATE_COMPLETED, text)))
                .build();
    }

    static Run run(long sequence, RunState state, String text) {
        return Run.newBuilder()
                .setRunId("r")
                .setState(state)
                .setLastSequence(sequence)
                .setMessage(message(text))
                .build();
    }

    static Message message(String... texts) {
        Message.Builder message = Message.newBuilder().setRole(Role.ROLE_ASSISTANT);
        for (String text : texts) {
            message.addParts(Part.newBuilder()
                    .setText(Text.newBuilder().setText(text))
                    .setState(PartState.PART_STATE_COMPLETE));
        }
        return message.build();
    }

    /** A field that no message of today has. */
    static UnknownFieldSet unknown() {
        ByteString value = ByteString.copyFrom("new", StandardCharsets.UTF_8);
        UnknownFieldSet.Field field = UnknownFieldSet.Field.newBuilder().addLengthDelimited(value).build();
        return UnknownFieldSet.newBuilder().addField(UNKNOWN_FIELD, field).build();
    }
}
