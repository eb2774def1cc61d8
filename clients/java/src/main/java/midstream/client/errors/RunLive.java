package midstream.client.errors;

/** The run has not ended. */
public final class RunLive extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "RUN_LIVE";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunLive(ErrorDetails details) {
        super(details.orElse(REASON, "the run has not ended"));
    }
}
