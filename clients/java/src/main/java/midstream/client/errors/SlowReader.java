package midstream.client.errors;

/** The stream was not read for too long after the run had ended. Following it again works. */
public final class SlowReader extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "SLOW_READER";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public SlowReader(ErrorDetails details) {
        super(details.orElse(REASON, "the stream was not read for too long"));
    }
}
