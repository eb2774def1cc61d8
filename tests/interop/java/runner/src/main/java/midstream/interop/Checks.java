package midstream.interop;

import io.grpc.Status;
import java.util.HexFormat;
import java.util.Objects;
import java.util.concurrent.ThreadLocalRandom;
import midstream.v1.Part;
import midstream.v1.Run;
import midstream.v1.RunState;

/** What is expected. */
final class Checks {
    private static final int SHOWN = 150;

    private Checks() {
    }

    static void that(boolean condition, String otherwise) {
        if (!condition) {
            throw new AssertionError(otherwise);
        }
    }

    static void equal(Object actual, Object expected, String what) {
        that(Objects.equals(actual, expected), what + ": expected " + shown(expected) + ", came " + shown(actual));
    }

    static void run(Run run, RunState state, String text) {
        equal(run.getState(), state, "state of the run");
        equal(text(run), text, "text of the run");
    }

    /** That it fails with a status and a reason; returns it. */
    static CallFailed fails(Status.Code code, String reason, Runnable action) {
        try {
            action.run();
        } catch (CallFailed failed) {
            equal(failed.code + " (" + failed.reason + ")", code + " (" + reason + ")", "failure");
            return failed;
        }
        throw new AssertionError("expected " + code + " (" + reason + "), but it succeeded");
    }

    static String text(Run run) {
        StringBuilder joined = new StringBuilder();
        for (Part part : run.getMessage().getPartsList()) {
            joined.append(part.getText().getText());
        }
        return joined.toString();
    }

    static Part onlyPart(Run run) {
        equal(run.getMessage().getPartsCount(), 1, "number of parts");
        return run.getMessage().getParts(0);
    }

    static String newId(String scenario) {
        byte[] random = new byte[4];
        ThreadLocalRandom.current().nextBytes(random);
        return scenario + "-" + HexFormat.of().formatHex(random);
    }

    private static String shown(Object value) {
        String words = String.valueOf(value).replaceAll("\\s+", " ");
        return words.length() <= SHOWN ? words : words.substring(0, SHOWN) + "… (" + words.length() + ")";
    }
}
