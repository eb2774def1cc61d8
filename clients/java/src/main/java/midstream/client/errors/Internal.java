package midstream.client.errors;

/** A bug of the server. */
public final class Internal extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "INTERNAL";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public Internal(ErrorDetails details) {
        super(details.orElse(REASON, "internal error"));
    }
}
