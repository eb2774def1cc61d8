package midstream.client.errors;

/** The server holds as many live runs as it may. */
public final class TooManyRuns extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "TOO_MANY_RUNS";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public TooManyRuns(ErrorDetails details) {
        super(details.orElse(REASON, "too many live runs"));
    }
}
