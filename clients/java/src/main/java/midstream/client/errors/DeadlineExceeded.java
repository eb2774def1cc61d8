package midstream.client.errors;

/** The caller's own timeout passed. */
public final class DeadlineExceeded extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "DEADLINE_EXCEEDED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public DeadlineExceeded(ErrorDetails details) {
        super(details.orElse(REASON, "the timeout passed"));
    }
}
