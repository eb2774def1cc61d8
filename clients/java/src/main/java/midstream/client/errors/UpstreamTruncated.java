package midstream.client.errors;

import midstream.v1.Run;

/** The upstream's stream ended without a finish. */
public final class UpstreamTruncated extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "UPSTREAM_TRUNCATED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public UpstreamTruncated(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
