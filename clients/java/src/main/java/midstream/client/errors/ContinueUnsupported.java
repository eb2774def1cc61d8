package midstream.client.errors;

/** The upstream cannot go on with a partial, or not with this one. */
public final class ContinueUnsupported extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "CONTINUE_UNSUPPORTED";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public ContinueUnsupported(ErrorDetails details) {
        super(details.orElse(REASON, "the model cannot continue this run"));
    }
}
