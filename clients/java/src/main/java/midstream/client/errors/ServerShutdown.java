package midstream.client.errors;

import midstream.v1.Run;

/** The server shut down before the run ended. */
public final class ServerShutdown extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "SERVER_SHUTDOWN";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public ServerShutdown(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
