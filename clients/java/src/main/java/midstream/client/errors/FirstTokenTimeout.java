package midstream.client.errors;

import midstream.v1.Run;

/** The upstream sent no output in time. */
public final class FirstTokenTimeout extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "FIRST_TOKEN_TIMEOUT";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public FirstTokenTimeout(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
