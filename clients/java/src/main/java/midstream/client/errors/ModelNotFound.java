package midstream.client.errors;

/** No upstream or alias has this name. */
public final class ModelNotFound extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "MODEL_NOT_FOUND";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public ModelNotFound(ErrorDetails details) {
        super(details.orElse(REASON, "no such model"));
    }
}
