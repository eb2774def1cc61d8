package midstream.client;

/** Lengths and places in UTF-8 bytes, of strings that are UTF-16. */
final class Utf8 {
    private Utf8() {
    }

    /** The number of bytes. */
    static long length(CharSequence text) {
        long length = 0;
        for (int index = 0; index < text.length(); index++) {
            length += unitLength(text.charAt(index));
        }
        return length;
    }

    /** The index of the character that begins at a byte; -1 if none does. */
    static int indexAt(String text, long offset) {
        long length = 0;
        int index = 0;
        while (length < offset && index < text.length()) {
            length += unitLength(text.charAt(index++));
        }
        boolean insidePair = index < text.length() && Character.isLowSurrogate(text.charAt(index)) && index > 0;
        return length == offset && !insidePair ? index : -1;
    }

    /** A surrogate pair is 4 bytes, so each half counts 2. */
    private static int unitLength(char unit) {
        if (unit < 0x80) {
            return 1;
        }
        return unit < 0x800 || Character.isSurrogate(unit) ? 2 : 3;
    }
}
