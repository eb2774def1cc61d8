package midstream.client.errors;

/** No run has this id. */
public final class RunNotFound extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "RUN_NOT_FOUND";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunNotFound(ErrorDetails details) {
        super(details.orElse(REASON, "no such run"));
    }
}
