package midstream.client.errors;

/** Other runs of the conversation are live. */
public final class ConversationBusy extends MidstreamClientError {
    /** What {@link #reason()} says. */
    public static final String REASON = "CONVERSATION_BUSY";

    private static final long serialVersionUID = 1L;

    /** As the client makes it. */
    public ConversationBusy(ErrorDetails details) {
        super(details.orElse(REASON, "the conversation has live runs"));
    }
}
