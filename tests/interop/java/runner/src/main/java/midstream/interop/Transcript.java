package midstream.interop;

import com.google.protobuf.ByteString;
import java.util.ArrayList;
import java.util.List;
import midstream.v1.MessageDelta;
import midstream.v1.Part;
import midstream.v1.Run;

/** What a reader received: sequences without a gap, and payloads that begin where the ones before them ended. */
final class Transcript {
    private final List<ByteString> payloads = new ArrayList<>();
    private final List<MessageDelta> texts = new ArrayList<>();
    private long lastSequence;
    private int entries;

    Transcript(long lastSequence) {
        this.lastSequence = lastSequence;
    }

    long lastSequence() {
        return lastSequence;
    }

    int entries() {
        return entries;
    }

    /** An entry of the log. */
    void entry(long first, long sequence) {
        Checks.equal(first, lastSequence + 1, "first sequence after " + lastSequence);
        lastSequence = sequence;
        entries++;
    }

    /** All up to a sequence, in one. */
    void snapshot(long sequence) {
        lastSequence = sequence;
    }

    void delta(MessageDelta delta) {
        while (payloads.size() <= delta.getPartIndex()) {
            payloads.add(ByteString.EMPTY);
        }
        ByteString before = payloads.get(delta.getPartIndex());
        if (delta.getPayloadCase() != MessageDelta.PayloadCase.PAYLOAD_NOT_SET) {
            Checks.equal(delta.getOffset(), (long) before.size(), "offset in part " + delta.getPartIndex());
            payloads.set(delta.getPartIndex(), before.concat(payload(delta)));
            texts.add(delta);
        }
    }

    /** The text of the text deltas, joined in the order in which they came. */
    String text() {
        StringBuilder joined = new StringBuilder();
        texts.forEach(delta -> joined.append(delta.getText()));
        return joined.toString();
    }

    /** The arguments of tool calls, joined. */
    String arguments() {
        StringBuilder joined = new StringBuilder();
        texts.forEach(delta -> joined.append(delta.getToolCall().getArguments()));
        return joined.toString();
    }

    String reasoning() {
        StringBuilder joined = new StringBuilder();
        texts.forEach(delta -> joined.append(delta.getReasoning()));
        return joined.toString();
    }

    List<String> pieces() {
        return texts.stream().map(MessageDelta::getText).toList();
    }

    /** That it is all of a run; only the sequences, where the reader began midway. */
    void checkExact(Run run, boolean isWhole) {
        Checks.equal(lastSequence, run.getLastSequence(), "last sequence");
        List<Part> parts = run.getMessage().getPartsList();
        if (isWhole) {
            Checks.equal(payloads.size(), parts.size(), "number of parts");
            for (int index = 0; index < parts.size(); index++) {
                if (parts.get(index).getPartCase() != Part.PartCase.PART_NOT_SET) {
                    Checks.equal(payloads.get(index), payload(parts.get(index)), "payload of part " + index);
                }
            }
        }
    }

    private static ByteString payload(MessageDelta delta) {
        return switch (delta.getPayloadCase()) {
            case TEXT -> delta.getTextBytes();
            case REASONING -> delta.getReasoningBytes();
            case REFUSAL -> delta.getRefusalBytes();
            case TOOL_CALL -> delta.getToolCall().getArgumentsBytes();
            case BLOB -> delta.getBlob().getData();
            case PAYLOAD_NOT_SET -> ByteString.EMPTY;
        };
    }

    private static ByteString payload(Part part) {
        return switch (part.getPartCase()) {
            case TEXT -> part.getText().getTextBytes();
            case REASONING -> part.getReasoning().getTextBytes();
            case REFUSAL -> part.getRefusal().getTextBytes();
            case TOOL_CALL -> part.getToolCall().getArgumentsBytes();
            case BLOB -> part.getBlob().getData();
            case TOOL_RESULT, PART_NOT_SET -> ByteString.EMPTY;
        };
    }
}
