package midstream.interop;

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** Runs the scenarios that the harness asks for, and prints a line of JSON for each. */
public final class Main {
    private static final int DETAIL_LENGTH = 500;
    private static final int DEFAULT_SECONDS = 30;
    private static final Map<String, Scenario> SCENARIOS = Map.ofEntries(
            Map.entry("complete", Basics::complete),
            Map.entry("time_limit", Basics::timeLimit),
            Map.entry("failed_run", Basics::failedRun),
            Map.entry("slow_reader", Basics::slowReader),
            Map.entry("large_message", Basics::largeMessage),
            Map.entry("unicode_everywhere", Basics::unicodeEverywhere),
            Map.entry("reasoning", Basics::reasoning),
            Map.entry("duplicate_start", Basics::duplicateStart),
            Map.entry("conflicting_start", Basics::conflictingStart),
            Map.entry("watch_after_end", Basics::watchAfterEnd),
            Map.entry("watch_from_snapshot", Basics::watchFromSnapshot),
            Map.entry("unknown_run", Basics::unknownRun),
            Map.entry("invalid_argument", Basics::invalidArgument),
            Map.entry("list_pages", Basics::listPages),
            Map.entry("delete_and_expired", Basics::deleteAndExpired),
            Map.entry("supersede", Basics::supersede),
            Map.entry("models", Basics::models),
            Map.entry("cancel_before_start", Stops::cancelBeforeStart),
            Map.entry("cancel_after_begin", Stops::cancelAfterBegin),
            Map.entry("cancel_after_first_delta", Stops::cancelAfterFirstDelta),
            Map.entry("cancel_by_leaving", Stops::cancelByLeaving),
            Map.entry("cancel_by_id_from_elsewhere", Stops::cancelByIdFromElsewhere),
            Map.entry("early_cancel_remembered", Stops::earlyCancelRemembered),
            Map.entry("deadline", Stops::deadline),
            Map.entry("tool_call_cut", Stops::toolCallCut),
            Map.entry("server_made_id", Losses::serverMadeId),
            Map.entry("forward_rule", Losses::forwardRule),
            Map.entry("resume_at_every_event", Losses::resumeAtEveryEvent),
            Map.entry("server_restart_midstream", Losses::serverRestartMidstream),
            Map.entry("drain", Losses::drain),
            Map.entry("leak", Losses::leak));

    private final Gson gson = new Gson();
    private final PrintStream output = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    private final ExecutorService executor = Executors.newCachedThreadPool();
    private final Map<String, Integer> seconds = new HashMap<>();
    private final Configuration configuration;
    private final Control control;

    private Main(Configuration configuration) throws IOException {
        this.configuration = configuration;
        this.control = new Control(configuration.control());
        JsonObject file = gson.fromJson(Files.readString(Path.of("../scenarios.json")), JsonObject.class);
        file.getAsJsonArray("scenarios").forEach(each -> seconds.put(
                each.getAsJsonObject().get("name").getAsString(), each.getAsJsonObject().get("seconds").getAsInt()));
    }

    /** The configuration is on standard input. */
    public static void main(String[] arguments) throws IOException {
        Configuration configuration = Configuration.read(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Main main = new Main(configuration);
        configuration.scenarios().forEach(main::run);
        System.exit(0);
    }

    private void run(String name) {
        long start = System.nanoTime();
        String failure = failureOf(name);
        JsonObject line = new JsonObject();
        line.addProperty("scenario", name);
        line.addProperty("ok", failure.isEmpty());
        line.addProperty("detail", failure.substring(0, Math.min(failure.length(), DETAIL_LENGTH)));
        line.addProperty("milliseconds", TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - start));
        output.println(gson.toJson(line));
    }

    private String failureOf(String name) {
        Scenario scenario = SCENARIOS.get(name);
        if (scenario == null) {
            return "this runner does not know the scenario";
        }
        Future<?> work = executor.submit(() -> {
            try (Stage stage = new Stage(configuration, control)) {
                scenario.play(stage);
            }
            return null;
        });
        try {
            work.get(seconds.getOrDefault(name, DEFAULT_SECONDS), TimeUnit.SECONDS);
            return "";
        } catch (ExecutionException error) {
            error.getCause().printStackTrace();
            return String.valueOf(error.getCause()).replaceAll("\\s+", " ");
        } catch (TimeoutException error) {
            work.cancel(true);
            return "the time was over";
        } catch (InterruptedException interrupt) {
            throw new AssertionError("nobody interrupts this thread", interrupt);
        }
    }

    /** What is played; it fails by throwing. */
    @FunctionalInterface
    private interface Scenario {
        void play(Stage stage) throws Exception;
    }
}
