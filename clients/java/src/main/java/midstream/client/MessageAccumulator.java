package midstream.client;

import java.util.ArrayList;
import java.util.List;
import midstream.v1.Message;
import midstream.v1.MessageDelta;
import midstream.v1.MessageDelta.PayloadCase;
import midstream.v1.Part;
import midstream.v1.Role;

/** Folds deltas into a message, and checks that each begins where the one before it ended. Not safe for threads. */
final class MessageAccumulator {
    private final List<PartSoFar> parts = new ArrayList<>();
    private final boolean beginsMidway;

    /** {@code beginsMidway} is for a reader that asked for the end of a log only. */
    MessageAccumulator(boolean beginsMidway) {
        this.beginsMidway = beginsMidway;
    }

    /** The text parts, joined. */
    String text() {
        StringBuilder joined = new StringBuilder();
        parts.forEach(part -> joined.append(part.answer()));
        return joined.toString();
    }

    /** The message so far; parts that were not closed are OPEN. */
    Message message() {
        Message.Builder message = Message.newBuilder().setRole(Role.ROLE_ASSISTANT);
        parts.forEach(part -> message.addParts(part.build()));
        return message.build();
    }

    /**
     * Adds a delta and returns what of it is new; throws StreamGapError if it does not continue its part.
     *
     * @param overlaps it may begin before the end of its part; only what follows is taken
     */
    MessageDelta fold(MessageDelta delta, boolean overlaps) {
        PartSoFar part = part(delta.getPartIndex());
        MessageDelta rest = delta;
        if (delta.getPayloadCase() != PayloadCase.PAYLOAD_NOT_SET) {
            rest = part.restOf(delta, overlaps);
            part.append(rest);
        } else if (!delta.getUnknownFields().asMap().isEmpty()) {
            part.addUnknown();
        }
        part.addState(rest, overlaps);
        return rest;
    }

    /** Adds what a snapshot has beyond the message so far, and returns it as deltas. */
    List<MessageDelta> foldSnapshot(Message message) {
        List<MessageDelta> folded = new ArrayList<>();
        for (Part part : message.getPartsList()) {
            folded.add(fold(Payloads.whole(folded.size(), part), true));
        }
        return folded;
    }

    /** Compares with the message of a run that has ended; throws StreamGapError if the deltas do not add up to it. */
    void checkFinal(Message message) {
        int count = message.getPartsCount();
        if (parts.size() != count && !(beginsMidway && parts.size() < count)) {
            throw Payloads.gap("the final message has %d parts, %d were received", count, parts.size());
        }
        for (int index = 0; index < parts.size(); index++) {
            if (!parts.get(index).isEndOf(message.getParts(index))) {
                throw Payloads.gap("part %d of the final message is not what was received", index);
            }
        }
    }

    private PartSoFar part(int index) {
        if (index > parts.size() && !beginsMidway) {
            throw Payloads.gap("part %d begins before part %d", index, parts.size());
        }
        while (index >= parts.size()) {
            parts.add(new PartSoFar(beginsMidway));
        }
        return parts.get(index);
    }
}
