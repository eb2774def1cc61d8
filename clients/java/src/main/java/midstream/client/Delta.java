package midstream.client;

import java.util.List;
import java.util.Optional;
import midstream.v1.Annotation;
import midstream.v1.BlobDelta;
import midstream.v1.MessageDelta;
import midstream.v1.PartState;
import midstream.v1.ProviderState;
import midstream.v1.TokenLogprob;
import midstream.v1.ToolCallDelta;

/**
 * More of a message. At most one of text, reasoning, refusal, tool call and blob is set; {@link #text()} is the
 * answer's own text and may always be printed.
 *
 * @param sequence the last of the run's sequences that it covers
 * @param firstSequence the first one; less if the server merged entries for a reader that lagged
 * @param content as the contract has it
 */
public record Delta(long sequence, long firstSequence, MessageDelta content) {

    /** The index in {@code message.parts} of the part that it appends to, or opens. */
    public int partIndex() {
        return content.getPartIndex();
    }

    /** UTF-8 bytes of that part's payload that came before. */
    public long offset() {
        return content.getOffset();
    }

    /** Appends to the answer. Empty if it is of another kind. */
    public String text() {
        return content.getText();
    }

    /** Appends to the model's thinking. Empty if it is of another kind. */
    public String reasoning() {
        return content.getReasoning();
    }

    /** Appends to the model's refusal. Empty if it is of another kind. */
    public String refusal() {
        return content.getRefusal();
    }

    /** Opens a tool call, or appends to its arguments. */
    public Optional<ToolCallDelta> toolCall() {
        return content.hasToolCall() ? Optional.of(content.getToolCall()) : Optional.empty();
    }

    /** Appends to a blob. */
    public Optional<BlobDelta> blob() {
        return content.hasBlob() ? Optional.of(content.getBlob()) : Optional.empty();
    }

    /** The state in which it leaves the part, if it closes it. */
    public Optional<PartState> partEnd() {
        return content.getPartEndValue() == 0 ? Optional.empty() : Optional.of(content.getPartEnd());
    }

    /** Replaces the part's provider state. */
    public Optional<ProviderState> providerState() {
        return content.hasProviderState() ? Optional.of(content.getProviderState()) : Optional.empty();
    }

    /** Added to the part's annotations. */
    public List<Annotation> annotations() {
        return content.getAnnotationsList();
    }

    /** Of the tokens in it. */
    public List<TokenLogprob> logprobs() {
        return content.getLogprobsList();
    }

    /** Whether there is anything in it that this version knows. */
    boolean isKnown() {
        return content.getPayloadCase() != MessageDelta.PayloadCase.PAYLOAD_NOT_SET
                || content.getPartEndValue() != 0
                || content.hasProviderState()
                || content.getAnnotationsCount() > 0;
    }
}
