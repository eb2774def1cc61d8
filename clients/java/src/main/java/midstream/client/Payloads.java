package midstream.client;

import com.google.protobuf.ByteString;
import midstream.client.errors.ErrorDetails;
import midstream.client.errors.StreamGapError;
import midstream.v1.Blob;
import midstream.v1.BlobDelta;
import midstream.v1.MessageDelta;
import midstream.v1.MessageDelta.PayloadCase;
import midstream.v1.Part;
import midstream.v1.PartState;
import midstream.v1.ToolCall;
import midstream.v1.ToolCallDelta;

/** What a delta adds to its part: measured, cut, and made from a whole part. */
final class Payloads {
    private Payloads() {
    }

    static StreamGapError gap(String format, Object... arguments) {
        return new StreamGapError(ErrorDetails.of(String.format(format, arguments)));
    }

    /** The characters that it adds; none if it is a blob. */
    static String text(MessageDelta delta) {
        return switch (delta.getPayloadCase()) {
            case TEXT -> delta.getText();
            case REASONING -> delta.getReasoning();
            case REFUSAL -> delta.getRefusal();
            case TOOL_CALL -> delta.getToolCall().getArguments();
            case BLOB, PAYLOAD_NOT_SET -> "";
        };
    }

    /** The number of bytes that it adds. */
    static long size(MessageDelta delta) {
        return delta.hasBlob() ? delta.getBlob().getData().size() : Utf8.length(text(delta));
    }

    /** A copy without its first bytes. */
    static MessageDelta cut(MessageDelta delta, long count) {
        MessageDelta.Builder rest = delta.toBuilder().setOffset(delta.getOffset() + count);
        if (delta.hasBlob()) {
            ByteString data = delta.getBlob().getData().substring((int) count);
            return rest.setBlob(delta.getBlob().toBuilder().setData(data)).build();
        }
        int index = Utf8.indexAt(text(delta), count);
        if (index < 0) {
            throw gap("part %d goes on inside a character", delta.getPartIndex());
        }
        return withText(rest, delta.getPayloadCase(), text(delta).substring(index)).build();
    }

    /** A delta that makes the whole part. */
    static MessageDelta whole(int index, Part part) {
        MessageDelta.Builder delta = MessageDelta.newBuilder().setPartIndex(index);
        switch (part.getPartCase()) {
            case TEXT -> delta.setText(part.getText().getText())
                    .addAllAnnotations(part.getText().getAnnotationsList());
            case REASONING -> delta.setReasoning(part.getReasoning().getText());
            case REFUSAL -> delta.setRefusal(part.getRefusal().getText());
            case TOOL_CALL -> delta.setToolCall(whole(part.getToolCall()));
            case BLOB -> delta.setBlob(whole(part.getBlob()));
            case TOOL_RESULT, PART_NOT_SET -> { }
        }
        if (part.getState() != PartState.PART_STATE_OPEN) {
            delta.setPartEndValue(part.getStateValue());
        }
        if (part.hasProviderState()) {
            delta.setProviderState(part.getProviderState());
        }
        return delta.build();
    }

    private static ToolCallDelta whole(ToolCall call) {
        return ToolCallDelta.newBuilder()
                .setId(call.getId())
                .setName(call.getName())
                .setArguments(call.getArguments())
                .build();
    }

    private static BlobDelta whole(Blob blob) {
        return BlobDelta.newBuilder()
                .setMimeType(blob.getMimeType())
                .setData(blob.getData())
                .setUrl(blob.getUrl())
                .setFileId(blob.getFileId())
                .build();
    }

    private static MessageDelta.Builder withText(MessageDelta.Builder delta, PayloadCase kind, String text) {
        return switch (kind) {
            case TEXT -> delta.setText(text);
            case REASONING -> delta.setReasoning(text);
            case REFUSAL -> delta.setRefusal(text);
            case TOOL_CALL -> delta.setToolCall(delta.getToolCall().toBuilder().setArguments(text));
            case BLOB, PAYLOAD_NOT_SET -> delta;
        };
    }
}
