package midstream.client.errors;

import midstream.v1.Run;

/** The upstream stopped sending output. */
public final class IdleTimeout extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "IDLE_TIMEOUT";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public IdleTimeout(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
