package midstream.client.errors;

/** A request that can never succeed; {@link #fieldViolations()} say which fields are wrong. */
public final class InvalidRequest extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "INVALID_REQUEST";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public InvalidRequest(ErrorDetails details) {
        super(details.orElse(REASON, "invalid request"));
    }
}
