package midstream.client.errors;

/** What arrived does not continue what had arrived before. Nothing of it was delivered. */
public final class StreamGapError extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "STREAM_GAP";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public StreamGapError(ErrorDetails details) {
        super(details.orElse(REASON, "the stream has a gap"));
    }
}
