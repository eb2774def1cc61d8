package midstream.client;

import midstream.v1.Part;
import midstream.v1.Run;

/** What is often asked of a run. */
public final class Runs {
    private Runs() {
    }

    /** The answer's text: the text parts of its message, joined. */
    public static String text(Run run) {
        StringBuilder joined = new StringBuilder();
        for (Part part : run.getMessage().getPartsList()) {
            joined.append(part.getText().getText());
        }
        return joined.toString();
    }

    /** Whether it is over. */
    public static boolean isEnded(Run run) {
        return switch (run.getState()) {
            case RUN_STATE_COMPLETED, RUN_STATE_CANCELLED, RUN_STATE_FAILED -> true;
            default -> false;
        };
    }
}
