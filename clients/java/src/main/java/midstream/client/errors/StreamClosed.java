package midstream.client.errors;

/** The stream, or its client, was closed before the run had ended. */
public final class StreamClosed extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "STREAM_CLOSED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public StreamClosed(ErrorDetails details) {
        super(details.orElse(REASON, "the stream is closed"));
    }
}
