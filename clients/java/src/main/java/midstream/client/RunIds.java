package midstream.client;

import java.security.SecureRandom;
import java.util.UUID;

/** Ids of runs. */
final class RunIds {
    private static final SecureRandom RANDOM = new SecureRandom();
    private static final long RANDOM_BITS = 0x0FFFL;
    private static final long VERSION_7 = 0x7000L;
    private static final long VARIANT_MASK = 0x3FFF_FFFF_FFFF_FFFFL;
    private static final long VARIANT = 0x8000_0000_0000_0000L;

    private RunIds() {
    }

    /** A new UUIDv7, which Java has no maker of: milliseconds, then 74 random bits (RFC 9562). */
    static String next() {
        long high = System.currentTimeMillis() << 16 | VERSION_7 | RANDOM.nextLong() & RANDOM_BITS;
        return new UUID(high, RANDOM.nextLong() & VARIANT_MASK | VARIANT).toString();
    }
}
