package midstream.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.DoubleSupplier;

/** How long to wait before each attempt to resume: not at all, then doubling, with jitter. */
record Backoff(Duration initial, Duration maximum, DoubleSupplier jitter) {

    static Backoff standard() {
        return new Backoff(
                Duration.ofMillis(100), Duration.ofSeconds(1), () -> ThreadLocalRandom.current().nextDouble());
    }

    /** Before attempt 0, 1, 2… */
    Duration delay(int attempt) {
        if (attempt == 0) {
            return Duration.ZERO;
        }
        double ceiling = Math.min(maximum.toNanos(), initial.toNanos() * Math.pow(2, Math.min(attempt - 1, 30)));
        return Duration.ofNanos((long) (ceiling * (0.5 + 0.5 * jitter.getAsDouble())));
    }
}
