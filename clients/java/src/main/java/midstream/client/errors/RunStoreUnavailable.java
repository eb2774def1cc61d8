package midstream.client.errors;

import midstream.v1.Run;

/** The store was away for too long while the run was live. */
public final class RunStoreUnavailable extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "STORE_UNAVAILABLE";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunStoreUnavailable(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
