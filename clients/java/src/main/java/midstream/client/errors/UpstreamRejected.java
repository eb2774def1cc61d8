package midstream.client.errors;

import midstream.v1.Run;

/** The upstream blames the request, its key or its content. */
public final class UpstreamRejected extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "UPSTREAM_REJECTED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public UpstreamRejected(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
