package midstream.client.errors;

/** The server's store is damaged. */
public final class StoreCorrupt extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "STORE_CORRUPT";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public StoreCorrupt(ErrorDetails details) {
        super(details.orElse(REASON, "the store is damaged"));
    }
}
