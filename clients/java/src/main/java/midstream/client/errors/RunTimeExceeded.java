package midstream.client.errors;

import midstream.v1.Run;

/** The run took longer than the server allows. */
public final class RunTimeExceeded extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "RUN_TIME_EXCEEDED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunTimeExceeded(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
