package midstream.client.errors;

/** The id belongs to a run with another request. */
public final class RunIdConflict extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "RUN_ID_CONFLICT";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunIdConflict(ErrorDetails details) {
        super(details.orElse(REASON, "a run with this id exists and had another request"));
    }
}
