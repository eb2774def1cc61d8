package midstream.client.errors;

import midstream.v1.Run;

/** The upstream's answer cannot be read. */
public final class UpstreamMalformed extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "UPSTREAM_MALFORMED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public UpstreamMalformed(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
