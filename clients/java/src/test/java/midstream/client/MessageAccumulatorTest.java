package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import com.google.protobuf.ByteString;
import java.util.List;
import midstream.client.errors.StreamGapError;
import midstream.v1.Annotation;
import midstream.v1.BlobDelta;
import midstream.v1.Message;
import midstream.v1.MessageDelta;
import midstream.v1.Part;
import midstream.v1.PartState;
import midstream.v1.ToolCallDelta;
import org.junit.jupiter.api.Test;

class MessageAccumulatorTest {
    private final MessageAccumulator accumulator = new MessageAccumulator(false);

    /** Parts interleave, and each is the concatenation of its own deltas. */
    @Test
    void deltasOfSeveralPartsAddUp() {
        accumulator.fold(MessageDelta.newBuilder().setReasoning("Hm").build(), false);
        accumulator.fold(Events.text(1, 0, "é"), false);
        accumulator.fold(MessageDelta.newBuilder().setReasoning("m.").setOffset(2).build(), false);
        accumulator.fold(Events.text(1, 2, "!"), false);

        Message message = accumulator.message();
        assertEquals("Hmm.", message.getParts(0).getReasoning().getText());
        assertEquals("é!", message.getParts(1).getText().getText());
        assertEquals(PartState.PART_STATE_OPEN, message.getParts(1).getState());
        assertEquals("é!", accumulator.text());
    }

    /** Id and name replace, arguments append, and the end of the part sets its state. */
    @Test
    void aToolCallIsPutTogether() {
        ToolCallDelta begin = ToolCallDelta.newBuilder().setId("1").setName("get").setArguments("{\"a\"").build();
        ToolCallDelta rest = ToolCallDelta.newBuilder().setName("got").setArguments(":1}").build();
        accumulator.fold(MessageDelta.newBuilder().setToolCall(begin).build(), false);
        accumulator.fold(
                MessageDelta.newBuilder().setToolCall(rest).setOffset(4).setPartEndValue(2).build(), false);

        Part part = accumulator.message().getParts(0);
        assertEquals("1 got {\"a\":1}", String.join(" ",
                part.getToolCall().getId(), part.getToolCall().getName(), part.getToolCall().getArguments()));
        assertEquals(PartState.PART_STATE_COMPLETE, part.getState());
    }

    /** Bytes append, the media type replaces. */
    @Test
    void aBlobIsPutTogether() {
        ByteString three = ByteString.copyFrom(new byte[3]);
        BlobDelta begin = BlobDelta.newBuilder().setMimeType("image/png").setData(three).build();
        BlobDelta rest = BlobDelta.newBuilder().setData(ByteString.copyFrom(new byte[2])).build();
        accumulator.fold(MessageDelta.newBuilder().setBlob(begin).build(), false);
        accumulator.fold(MessageDelta.newBuilder().setBlob(rest).setOffset(3).build(), false);

        Part part = accumulator.message().getParts(0);
        assertEquals("image/png", part.getBlob().getMimeType());
        assertEquals(5, part.getBlob().getData().size());
    }

    /** Bytes that are missing, or come twice, are told, and nothing of them is taken. */
    @Test
    void anOffsetThatDoesNotFitIsAGap() {
        accumulator.fold(Events.text(0, 0, "ab"), false);

        assertThrows(StreamGapError.class, () -> accumulator.fold(Events.text(0, 3, "x"), false));
        assertThrows(StreamGapError.class, () -> accumulator.fold(Events.text(0, 1, "x"), false));
        assertThrows(StreamGapError.class, () -> accumulator.fold(Events.text(0, 3, "x"), true));
        assertEquals("ab", accumulator.text());
    }

    /** A part that is left out is told. */
    @Test
    void aPartThatIsSkippedIsAGap() {
        assertThrows(StreamGapError.class, () -> accumulator.fold(Events.text(1, 0, "x"), false));
    }

    /** A part does not change its kind. */
    @Test
    void anotherKindInTheSamePartIsAGap() {
        accumulator.fold(Events.text(0, 0, "ab"), false);
        MessageDelta refusal = MessageDelta.newBuilder().setRefusal("no").setOffset(2).build();

        assertThrows(StreamGapError.class, () -> accumulator.fold(refusal, false));
    }

    /** Of a merged delta that begins too early only the rest is taken, by bytes. */
    @Test
    void ofAnOverlapOnlyTheRestIsNew() {
        accumulator.fold(Events.text(0, 0, "aé"), false);

        MessageDelta rest = accumulator.fold(Events.text(0, 1, "é👩"), true);

        assertEquals("👩", rest.getText());
        assertEquals(3, rest.getOffset());
        assertEquals("aé👩", accumulator.text());
    }

    /** An overlap that ends inside a character cannot be right. */
    @Test
    void anOverlapInsideACharacterIsAGap() {
        accumulator.fold(Events.text(0, 0, "ab"), false);

        assertThrows(StreamGapError.class, () -> accumulator.fold(Events.text(0, 0, "世"), true));
    }

    /** What cannot be read is not checked, and does not get in the way of the rest. */
    @Test
    void anUnknownPayloadIsSkipped() {
        MessageDelta unknown = MessageDelta.newBuilder().setUnknownFields(Events.unknown()).build();
        accumulator.fold(unknown, false);
        accumulator.fold(Events.text(1, 0, "ok"), false);

        Message.Builder last = Events.message("", "ok").toBuilder();
        last.setParts(0, Part.newBuilder().setUnknownFields(Events.unknown()));
        accumulator.checkFinal(last.build());
        assertEquals(2, accumulator.message().getPartsCount());
    }

    /** The final message has to be what was received, part by part. */
    @Test
    void anotherFinalMessageIsAGap() {
        accumulator.fold(Events.text(0, 0, "abc"), false);

        accumulator.checkFinal(Events.message("abc"));
        assertThrows(StreamGapError.class, () -> accumulator.checkFinal(Events.message("abd")));
        assertThrows(StreamGapError.class, () -> accumulator.checkFinal(Events.message("abcd")));
        assertThrows(StreamGapError.class, () -> accumulator.checkFinal(Events.message("abc", "d")));
        assertThrows(StreamGapError.class, () -> accumulator.checkFinal(Events.message()));
    }

    /** One who asked for the end of a log only has the end of each part. */
    @Test
    void aReaderThatBeginsMidwayHasTheEndOfAPart() {
        MessageAccumulator midway = new MessageAccumulator(true);
        midway.fold(Events.text(1, 3, "de"), false);

        midway.checkFinal(Events.message("x", "abcde", "later"));
        assertThrows(StreamGapError.class, () -> midway.checkFinal(Events.message("x", "abcdf")));
        assertThrows(StreamGapError.class, () -> midway.fold(Events.text(1, 4, "x"), false));
    }

    /** A snapshot gives what it has beyond what was received. */
    @Test
    void aSnapshotAddsWhatIsNew() {
        accumulator.fold(Events.text(0, 0, "ab"), false);

        List<MessageDelta> folded = accumulator.foldSnapshot(Events.message("abc", "d"));

        assertEquals(List.of("c", "d"), folded.stream().map(MessageDelta::getText).toList());
        assertEquals("abcd", accumulator.text());
    }

    /** Annotations that came before are not taken twice from an overlap. */
    @Test
    void annotationsOfAnOverlapAreTakenOnce() {
        MessageDelta delta = Events.text(0, 0, "ab").toBuilder()
                .addAnnotations(Annotation.newBuilder().setUrl("u"))
                .build();
        accumulator.fold(delta, false);
        accumulator.fold(delta, true);

        assertEquals(1, accumulator.message().getParts(0).getText().getAnnotationsCount());
    }
}
