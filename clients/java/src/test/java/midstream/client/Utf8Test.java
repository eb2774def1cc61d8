package midstream.client;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;

class Utf8Test {
    private static final String MIXED = "aé世👩b";

    /** Lengths are those of the encoder. */
    @Test
    void lengthCountsBytes() {
        for (String text : new String[] {"", "a", "é", "世", "👩‍👩‍👧", MIXED, "\u07ff\u0800\uffff"}) {
            assertEquals(text.getBytes(StandardCharsets.UTF_8).length, Utf8.length(text), text);
        }
    }

    /** A byte inside a character has no index. */
    @Test
    void onlyTheFirstByteOfACharacterHasAnIndex() {
        int[] expected = {0, 1, -1, 2, -1, -1, 3, -1, -1, -1, 5, 6, -1};

        for (int offset = 0; offset < expected.length; offset++) {
            assertEquals(expected[offset], Utf8.indexAt(MIXED, offset), "byte " + offset);
        }
    }
}
