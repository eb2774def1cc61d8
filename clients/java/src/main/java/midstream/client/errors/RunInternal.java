package midstream.client.errors;

import midstream.v1.Run;

/** A bug of the server ended the run. */
public final class RunInternal extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "INTERNAL";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public RunInternal(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
