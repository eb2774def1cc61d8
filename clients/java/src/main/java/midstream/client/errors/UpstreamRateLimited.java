package midstream.client.errors;

import midstream.v1.Run;

/** The upstream limits the rate of requests. */
public final class UpstreamRateLimited extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "UPSTREAM_RATE_LIMITED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public UpstreamRateLimited(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
