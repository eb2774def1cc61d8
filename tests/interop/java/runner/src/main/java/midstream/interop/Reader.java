package midstream.interop;

import java.util.Optional;
import java.util.function.BooleanSupplier;
import midstream.v1.Run;
import midstream.v1.RunStarted;

/** A stream of a run, whatever reads it. */
abstract class Reader implements AutoCloseable {
    final Transcript transcript;
    private final boolean isWhole;

    Reader(long afterSequence, boolean isWhole) {
        this.transcript = new Transcript(afterSequence);
        this.isWhole = isWhole;
    }

    /** Takes what comes next; false at a good end. */
    abstract boolean advance();

    /** The run of the last event; of a library, the result of its stream. */
    abstract Run last();

    /** Leaves the stream: the idiom of the library, or a cancel of the call. */
    abstract void leave();

    abstract Optional<RunStarted> started();

    /** The text so far. */
    abstract String text();

    @Override
    public final void close() {
        leave();
    }

    /** Reads until something is so; it is a failure if the stream ends before. */
    final void until(BooleanSupplier condition, String what) {
        while (!condition.getAsBoolean()) {
            if (!advance()) {
                throw new AssertionError("the stream ended, but expected was " + what + "; its text is " + text());
            }
        }
    }

    /** Reads until the text is this. */
    final void untilText(String wanted) {
        until(() -> {
            String now = text();
            Checks.that(wanted.startsWith(now), "the text is " + now + ", which does not begin " + wanted);
            return now.equals(wanted);
        }, "the text " + wanted);
    }

    /** Reads to the end, and checks that the transcript is exact. */
    final Run toEnd() {
        while (advance()) {
            // all of it
        }
        Run run = last();
        transcript.checkExact(run, isWhole);
        return run;
    }
}
