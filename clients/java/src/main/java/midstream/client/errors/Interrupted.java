package midstream.client.errors;

/**
 * The thread was interrupted while it waited; its interrupt flag is set again. Nothing of a stream is lost by it:
 * leaving the block stops the run, reading on goes on.
 */
public final class Interrupted extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "INTERRUPTED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public Interrupted(ErrorDetails details) {
        super(details.orElse(REASON, "the thread was interrupted"));
    }
}
