package midstream.client.errors;

import midstream.v1.Run;

/** The conversation did not become free in time. */
public final class QueueTimeout extends RunFailed {
    /** What {@link #reason()} says. */
    public static final String REASON = "QUEUE_TIMEOUT";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public QueueTimeout(ErrorDetails details, Run run) {
        super(details.orElse(REASON, DEFAULT_MESSAGE), run);
    }
}
