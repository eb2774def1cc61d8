package midstream.client.errors;

/** The run's content was deleted; its id stays taken for a day (NOT_FOUND to read, FAILED_PRECONDITION to start). */
public final class RunExpired extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "RUN_EXPIRED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunExpired(ErrorDetails details) {
        super(details.orElse(REASON, "the run has expired, or was deleted"));
    }
}
