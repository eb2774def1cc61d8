package midstream.client.errors;

import midstream.v1.Run;

/** The output exceeds 3 MiB. */
public final class OutputTooLarge extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "OUTPUT_TOO_LARGE";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public OutputTooLarge(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
