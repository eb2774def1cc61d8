package midstream.client.errors;

/** The server cannot be reached, or the connection was lost and could not be had again in time. */
public final class ConnectionLost extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "CONNECTION_LOST";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public ConnectionLost(ErrorDetails details) {
        super(details.orElse(REASON, "the connection to the server was lost"));
    }
}
