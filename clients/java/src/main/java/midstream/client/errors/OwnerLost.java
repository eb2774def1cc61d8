package midstream.client.errors;

import midstream.v1.Run;

/** The process that owned the run died. */
public final class OwnerLost extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "OWNER_LOST";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public OwnerLost(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
