package midstream.client.errors;

/** As many cancels of unknown runs are remembered as may be. */
public final class TooManyRememberedCancels extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "TOO_MANY_REMEMBERED_CANCELS";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public TooManyRememberedCancels(ErrorDetails details) {
        super(details.orElse(REASON, "too many cancels of runs that never started"));
    }
}
