package midstream.client;

import java.time.Duration;

/** Waiting that an interrupt does not cut short: closing has to be done also on a thread that is being stopped. */
final class Waits {
    private Waits() {
    }

    /** Something that waits at most so many nanoseconds. */
    @FunctionalInterface
    interface Wait {
        void await(long nanoseconds) throws InterruptedException;
    }

    /** Waits again after an interrupt, with what is left of the time; the interrupt flag is set afterwards. */
    static void uninterruptibly(Duration time, Wait wait) {
        long end = System.nanoTime() + time.toNanos();
        boolean wasInterrupted = false;
        try {
            while (true) {
                try {
                    wait.await(Math.max(0, end - System.nanoTime()));
                    return;
                } catch (InterruptedException interrupt) {
                    wasInterrupted = true;
                }
            }
        } finally {
            if (wasInterrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }
}
