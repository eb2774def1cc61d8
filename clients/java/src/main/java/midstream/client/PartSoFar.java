package midstream.client;

import com.google.protobuf.ByteString;
import java.util.ArrayList;
import java.util.List;
import midstream.v1.Annotation;
import midstream.v1.Blob;
import midstream.v1.BlobDelta;
import midstream.v1.MessageDelta;
import midstream.v1.MessageDelta.PayloadCase;
import midstream.v1.Part;
import midstream.v1.PartState;
import midstream.v1.ProviderState;
import midstream.v1.Reasoning;
import midstream.v1.Refusal;
import midstream.v1.Text;
import midstream.v1.ToolCall;

/** A part so far. */
final class PartSoFar {
    private static final long UNKNOWN = -1;

    private final StringBuilder text = new StringBuilder();
    private final List<Annotation> annotations = new ArrayList<>();
    private PayloadCase kind = PayloadCase.PAYLOAD_NOT_SET;
    private long end;
    private ByteString data = ByteString.EMPTY;
    private ToolCall call = ToolCall.getDefaultInstance();
    private Blob blob = Blob.getDefaultInstance();
    private ProviderState providerState;
    private int state = PartState.PART_STATE_OPEN_VALUE;
    private boolean isOpaque;

    /** One whose first bytes may not have been asked for takes the first offset for its beginning. */
    PartSoFar(boolean beginsMidway) {
        end = beginsMidway ? UNKNOWN : 0;
    }

    /** The answer's own text; empty for other kinds. */
    CharSequence answer() {
        return kind == PayloadCase.TEXT ? text : "";
    }

    /** Notes that it holds what this version cannot read: nothing about its payload is checked any more. */
    void addUnknown() {
        isOpaque = true;
    }

    /** What of a delta is new. */
    MessageDelta restOf(MessageDelta delta, boolean overlaps) {
        if (kind != PayloadCase.PAYLOAD_NOT_SET && kind != delta.getPayloadCase()) {
            throw Payloads.gap("part %d was %s and goes on as %s", delta.getPartIndex(), kind, delta.getPayloadCase());
        }
        if (isOpaque || end == UNKNOWN || delta.getOffset() == end) {
            return delta;
        }
        boolean isCovered = delta.getOffset() < end && end <= delta.getOffset() + Payloads.size(delta);
        if (!overlaps || !isCovered) {
            throw Payloads.gap(
                    "part %d ends at byte %d and goes on at %d", delta.getPartIndex(), end, delta.getOffset());
        }
        return Payloads.cut(delta, end - delta.getOffset());
    }

    void append(MessageDelta delta) {
        kind = delta.getPayloadCase();
        text.append(Payloads.text(delta));
        if (delta.hasToolCall()) {
            rename(delta.getToolCall().getId(), delta.getToolCall().getName());
        } else if (delta.hasBlob()) {
            data = data.concat(delta.getBlob().getData());
            replace(delta.getBlob());
        }
        end = delta.getOffset() + Payloads.size(delta);
    }

    void addState(MessageDelta delta, boolean overlaps) {
        for (Annotation annotation : delta.getAnnotationsList()) {
            if (!overlaps || !annotations.contains(annotation)) {
                annotations.add(annotation);
            }
        }
        if (delta.hasProviderState()) {
            providerState = delta.getProviderState();
        }
        if (delta.getPartEndValue() != 0) {
            state = delta.getPartEndValue();
        }
    }

    Part build() {
        Part.Builder part = Part.newBuilder().setStateValue(state);
        if (providerState != null) {
            part.setProviderState(providerState);
        }
        String whole = text.toString();
        switch (kind) {
            case TEXT -> part.setText(Text.newBuilder().setText(whole).addAllAnnotations(annotations));
            case REASONING -> part.setReasoning(Reasoning.newBuilder().setText(whole));
            case REFUSAL -> part.setRefusal(Refusal.newBuilder().setText(whole));
            case TOOL_CALL -> part.setToolCall(call.toBuilder().setArguments(whole));
            case BLOB -> part.setBlob(blobWithData());
            case PAYLOAD_NOT_SET -> { }
        }
        return part.build();
    }

    /** Whether the final part ends with this payload, and is as long. */
    boolean isEndOf(Part last) {
        if (isOpaque || end == UNKNOWN || last.getPartCase() == Part.PartCase.PART_NOT_SET) {
            return true;
        }
        MessageDelta whole = Payloads.whole(0, last);
        boolean isSameKind = kind == PayloadCase.PAYLOAD_NOT_SET || kind == whole.getPayloadCase();
        boolean isSameEnd = whole.hasBlob()
                ? whole.getBlob().getData().endsWith(data)
                : Payloads.text(whole).endsWith(text.toString());
        return isSameKind && isSameEnd && end == Payloads.size(whole);
    }

    private void rename(String id, String name) {
        ToolCall.Builder renamed = call.toBuilder();
        if (!id.isEmpty()) {
            renamed.setId(id);
        }
        if (!name.isEmpty()) {
            renamed.setName(name);
        }
        call = renamed.build();
    }

    private void replace(BlobDelta delta) {
        Blob.Builder replaced = blob.toBuilder();
        if (!delta.getMimeType().isEmpty()) {
            replaced.setMimeType(delta.getMimeType());
        }
        if (!delta.getUrl().isEmpty()) {
            replaced.setUrl(delta.getUrl());
        } else if (!delta.getFileId().isEmpty()) {
            replaced.setFileId(delta.getFileId());
        }
        blob = replaced.build();
    }

    private Blob blobWithData() {
        boolean hasData = blob.getSourceCase() == Blob.SourceCase.SOURCE_NOT_SET && !data.isEmpty();
        return hasData ? blob.toBuilder().setData(data).build() : blob;
    }
}
