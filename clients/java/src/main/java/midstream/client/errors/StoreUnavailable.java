package midstream.client.errors;

/** The server's store cannot be reached or written. */
public final class StoreUnavailable extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "STORE_UNAVAILABLE";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public StoreUnavailable(ErrorDetails details) {
        super(details.orElse(REASON, "the run store is unavailable"));
    }
}
