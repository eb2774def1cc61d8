package midstream.client.errors;

import midstream.v1.Run;

/** The upstream could not be reached, or broke. */
public final class UpstreamUnavailable extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "UPSTREAM_UNAVAILABLE";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public UpstreamUnavailable(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
