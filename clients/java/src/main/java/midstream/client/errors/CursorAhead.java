package midstream.client.errors;

/** {@code after_sequence} is beyond the end of the run's log. */
public final class CursorAhead extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "CURSOR_AHEAD";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public CursorAhead(ErrorDetails details) {
        super(details.orElse(REASON, "after_sequence is beyond the end of the log"));
    }
}
