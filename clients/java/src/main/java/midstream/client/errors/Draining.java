package midstream.client.errors;

/** The server is going away. */
public final class Draining extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "DRAINING";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public Draining(ErrorDetails details) {
        super(details.orElse(REASON, "the server is shutting down"));
    }
}
