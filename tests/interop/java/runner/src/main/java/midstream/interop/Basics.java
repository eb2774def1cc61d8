package midstream.interop;

import static midstream.interop.Checks.equal;
import static midstream.interop.Checks.fails;
import static midstream.interop.Checks.newId;
import static midstream.interop.Checks.onlyPart;
import static midstream.interop.Checks.that;

import com.google.protobuf.Duration;
import io.grpc.Status;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import midstream.client.errors.RunFailed;
import midstream.client.errors.UpstreamTruncated;
import midstream.v1.CancelReason;
import midstream.v1.ConversationPolicy;
import midstream.v1.FinishReason;
import midstream.v1.GenerationParameters;
import midstream.v1.Model;
import midstream.v1.Part;
import midstream.v1.PartState;
import midstream.v1.Run;
import midstream.v1.RunLimits;
import midstream.v1.RunState;
import midstream.v1.UsageSource;

/** The scenarios of runs that run, and of runs that are refused. */
final class Basics {
    private static final String HELLO = "Hello, world";
    private static final String LARGE = "0123456789abcdef".repeat(196_000);
    private static final int LIMIT_NANOSECONDS = 300_000_000;
    private static final String UNICODE = "4772c3bcc39f652c20e4b896e7958c2120f09f91a9e2808df09f91a9e2808df09f91a7e2808d"
            + "f09f91a62065cc8120d7a9d79cd795d79d20e280aee280a8c285efbbbf09225c0a20f09d849ef09f87a9f09f87aa2e";

    private Basics() {
    }

    static void complete(Stage stage) {
        String id = newId("complete");
        Caller caller = stage.caller();
        Run run = stage.complete(caller, stage.start(id, "hello"));
        Checks.run(run, RunState.RUN_STATE_COMPLETED, HELLO);
        equal(run.getRunId() + " " + run.getModel(), id + " " + stage.model("hello"), "id and model");
        equal(run.getFinishReason(), FinishReason.FINISH_REASON_STOP, "finish reason");
        equal(run.getCancelReason(), CancelReason.CANCEL_REASON_UNSPECIFIED, "cancel reason");
        equal(onlyPart(run).getState(), PartState.PART_STATE_COMPLETE, "state of the part");
        equal(run.getUsage().getOutput().getValue(), 3L, "output tokens");
        equal(run.getUsage().getOutput().getSource(), UsageSource.USAGE_SOURCE_UPSTREAM_FINAL, "their source");
        equal(run.getAttempts(), 1, "attempts");
        equal(caller.get(id), run, "GetRun");
        var seen = stage.control.upstream("see", id);
        equal(seen.get("requests").getAsInt() + " " + seen.get("open").getAsInt(), "1 0", "requests upstream");
    }

    static void timeLimit(Stage stage) {
        String id = newId("time_limit");
        Duration total = Duration.newBuilder().setNanos(LIMIT_NANOSECONDS).build();
        Start start = stage.start(id, "stall");
        start = start.with(start.request().toBuilder().setLimits(RunLimits.newBuilder().setTotal(total)));
        Reader reader = stage.begin(stage.caller(), start);
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_CANCELLED, "1 2 3");
        equal(run.getCancelReason(), CancelReason.CANCEL_REASON_TIME_LIMIT, "cancel reason");
        equal(onlyPart(run).getState(), PartState.PART_STATE_TRUNCATED, "state of the part");
        equal(reader.started().orElseThrow().getLimits().getTotal(), total, "limit in effect");
        stage.control.expectClosed(id, 1);
    }

    static void failedRun(Stage stage) {
        String id = newId("failed_run");
        Reader reader = stage.begin(stage.caller(), stage.start(id, "truncated"));
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_FAILED, "1 2 3");
        equal(run.getFinishReason() + " " + run.getCancelReason(),
                "FINISH_REASON_UNSPECIFIED CANCEL_REASON_UNSPECIFIED", "reasons");
        equal(Losses.reason(run), "UPSTREAM_TRUNCATED", "reason");
        if (reader instanceof ClientReader client) {
            try {
                client.stream.resultOrThrow();
                throw new AssertionError("no error for a failed run");
            } catch (RunFailed failed) {
                equal(failed.getClass(), UpstreamTruncated.class, "class of the error");
                equal(failed.run(), run, "the run of the error");
            }
        }
    }

    static void slowReader(Stage stage) {
        String id = newId("slow_reader");
        Reader reader = stage.begin(stage.caller(), stage.start(id, "large"));
        if (stage.isRaw()) {
            reader.advance();
        } else {
            stage.control.upstream("arrived", id);
        }
        Run ended = stage.caller().getEnded(id);
        Checks.run(ended, RunState.RUN_STATE_COMPLETED, LARGE);
        equal(reader.toEnd(), ended, "the final run");
    }

    static void largeMessage(Stage stage) {
        String id = newId("large_message");
        Caller caller = stage.caller();
        Run run = stage.complete(caller, stage.start(id, "large"));
        Checks.run(run, RunState.RUN_STATE_COMPLETED, LARGE);
        equal(caller.get(id), run, "GetRun");
        Reader reader = stage.kept(caller.watchSnapshot(id));
        Run watched = reader.toEnd();
        equal(watched, run, "the run that was watched");
        equal(reader.text(), LARGE, "its text");
    }

    static void unicodeEverywhere(Stage stage) {
        String id = newId("unicode_everywhere");
        String text = new String(HexFormat.of().parseHex(UNICODE), StandardCharsets.UTF_8);
        String prompt = id + "\n" + text;
        Caller caller = stage.caller();
        Start start = Start.of(id, stage.model("unicode"), prompt);
        Map<String, String> labels = Map.of("k", "ключ 🔑");
        Run run = stage.complete(caller, start.with(start.request().toBuilder().putAllLabels(labels)));
        Checks.run(run, RunState.RUN_STATE_COMPLETED, text);
        equal(run.getLabelsMap(), labels, "labels");
        equal(stage.control.upstream("see", id).get("prompt").getAsString(), prompt, "the prompt upstream");

        String other = newId("unicode_everywhere");
        stage.begin(caller, stage.start(other, "stall")).untilText("1 2 3");
        equal(caller.cancel(other, "стоп ✋").getRun().getCancel().getReason(), "стоп ✋", "the caller's reason");
    }

    static void reasoning(Stage stage) {
        String id = newId("reasoning");
        Reader reader = stage.begin(stage.caller(), stage.start(id, "thinking"));
        reader.until(() -> reader.transcript.reasoning().equals("First, think."), "the reasoning");
        equal(reader.text(), "", "text");
        stage.control.open(id, "answer");
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_COMPLETED, "The answer.");
        List<Part> parts = run.getMessage().getPartsList();
        equal(parts.size(), 2, "number of parts");
        equal(parts.get(0).getReasoning().getText(), "First, think.", "reasoning");
        equal(parts.get(1).getText().getText(), "The answer.", "text of the second part");
        parts.forEach(part -> equal(part.getState(), PartState.PART_STATE_COMPLETE, "state of a part"));
    }

    static void duplicateStart(Stage stage) {
        String id = newId("duplicate_start");
        Caller caller = stage.caller();
        Start start = stage.start(id, "words");
        Reader first = stage.beginUntil(caller, start, "one", "one");
        Reader second = stage.begin(stage.caller(), start);
        second.untilText("one");
        stage.control.open(id, "two", "three", "end");
        Run run = first.toEnd();
        Checks.run(run, RunState.RUN_STATE_COMPLETED, "one two three");
        equal(second.toEnd(), run, "the final run of the second");
        equal(stage.complete(caller, start), run, "the final run of the third");
        stage.control.expectRequests(id, 1);
    }

    static void conflictingStart(Stage stage) {
        String id = newId("conflicting_start");
        Caller caller = stage.caller();
        Run run = stage.complete(caller, stage.start(id, "hello"));
        Start other = Start.of(id, stage.model("hello"), id + "\nother");
        fails(Status.Code.ALREADY_EXISTS, "RUN_ID_CONFLICT", () -> stage.complete(caller, other));
        equal(caller.get(id), run, "GetRun");
        stage.control.expectRequests(id, 1);
    }

    static void watchAfterEnd(Stage stage) {
        String id = newId("watch_after_end");
        Caller caller = stage.caller();
        Run run = stage.complete(caller, stage.start(id, "hello"));
        long last = run.getLastSequence();
        equal(stage.kept(caller.watch(id)).toEnd(), run, "watched from the start");
        Reader ending = stage.kept(caller.watchAfter(id, last - 1));
        equal(ending.toEnd(), run, "watched after the last delta");
        equal(ending.transcript.entries(), 1, "entries after the last delta");
        Reader nothing = stage.kept(caller.watchAfter(id, last));
        that(!nothing.advance(), "something came after the end");
        if (nothing instanceof ClientReader client) {
            equal(client.stream.result(), run, "result of a watch after the end");
        }
        fails(Status.Code.OUT_OF_RANGE, "CURSOR_AHEAD", () -> stage.kept(caller.watchAfter(id, last + 5)).toEnd());
    }

    static void watchFromSnapshot(Stage stage) {
        String id = newId("watch_from_snapshot");
        Reader reader = stage.begin(stage.caller(), stage.start(id, "words"));
        stage.control.open(id, "one", "two");
        reader.untilText("one two");
        Reader snapshot = stage.kept(stage.caller().watchSnapshot(id));
        snapshot.untilText("one two");
        if (snapshot instanceof RawReader raw) {
            that(raw.events.get(0).hasSnapshot() && raw.events.get(0).getSequence() >= 2, "the first event");
        }
        Reader observer = stage.caller().watch(id);
        observer.untilText("one two");
        observer.leave();
        stage.control.open(id, "three", "end");
        int pieces = snapshot.transcript.pieces().size();
        Run run = snapshot.toEnd();
        List<String> after = snapshot.transcript.pieces().subList(pieces, snapshot.transcript.pieces().size());
        equal(String.join("", after), " three", "text after the snapshot");
        Checks.run(run, RunState.RUN_STATE_COMPLETED, "one two three");
        equal(reader.toEnd(), run, "the final run");
    }

    static void unknownRun(Stage stage) {
        String id = newId("unknown_run");
        Caller caller = stage.caller();
        fails(Status.Code.NOT_FOUND, "RUN_NOT_FOUND", () -> caller.get(id));
        fails(Status.Code.NOT_FOUND, "RUN_NOT_FOUND", () -> stage.kept(caller.watch(id)).toEnd());
        fails(Status.Code.NOT_FOUND, "RUN_NOT_FOUND", () -> caller.delete(id));
        fails(Status.Code.NOT_FOUND, "MODEL_NOT_FOUND", () -> stage.complete(caller, Start.of(id, "nowhere/x", id)));
        fails(Status.Code.NOT_FOUND, "RUN_NOT_FOUND", () -> caller.get(id));
    }

    static void invalidArgument(Stage stage) {
        Start start = stage.start("not an id", "hello");
        start = start.with(start.request().toBuilder()
                .setParameters(GenerationParameters.newBuilder().setTemperature(9))
                .putLabels("k", "x".repeat(257)));
        Start wrong = start;
        Caller caller = stage.caller();
        CallFailed failed =
                fails(Status.Code.INVALID_ARGUMENT, "INVALID_REQUEST", () -> stage.complete(caller, wrong));
        TreeSet<String> fields = new TreeSet<>();
        failed.violations.forEach(each -> fields.add(each.getKey()));
        equal(fields, new TreeSet<>(List.of("run_id", "parameters.temperature", "labels[\"k\"]")), "fields");
        failed.violations.forEach(each -> that(!each.getValue().isEmpty(), "no description of " + each.getKey()));
    }

    static void listPages(Stage stage) {
        String group = newId("list_pages");
        Caller caller = stage.caller();
        for (int number = 1; number <= 5; number++) {
            Start start = stage.start(number == 1 ? group : group + "-" + number, "hello");
            stage.complete(caller, start.with(start.request().toBuilder().putLabels("group", group)));
        }
        List<Run> runs = caller.list(group, RunState.RUN_STATE_UNSPECIFIED, 2);
        List<String> wanted = List.of(group + "-5", group + "-4", group + "-3", group + "-2", group);
        equal(runs.stream().map(Run::getRunId).toList(), wanted, "runs");
        for (Run run : runs) {
            that(run.getState() == RunState.RUN_STATE_COMPLETED && !run.hasMessage(), "a listed run: " + run);
        }
        equal(caller.list(group, RunState.RUN_STATE_CANCELLED, 2), List.of(), "cancelled runs");
        if (caller instanceof RawCaller raw) {
            var first = raw.page(group, RunState.RUN_STATE_UNSPECIFIED, 2, "");
            equal(first.getRunsCount(), 2, "runs on the first page");
            fails(Status.Code.INVALID_ARGUMENT, "INVALID_REQUEST",
                    () -> raw.page("other", RunState.RUN_STATE_UNSPECIFIED, 2, first.getNextPageToken()));
        }
    }

    static void deleteAndExpired(Stage stage) {
        String id = newId("delete_and_expired");
        Caller caller = stage.caller();
        Start start = stage.start(id, "hello");
        stage.complete(caller, start);
        caller.delete(id);
        fails(Status.Code.NOT_FOUND, "RUN_EXPIRED", () -> caller.get(id));
        fails(Status.Code.NOT_FOUND, "RUN_EXPIRED", () -> stage.kept(caller.watch(id)).toEnd());
        fails(Status.Code.NOT_FOUND, "RUN_EXPIRED", () -> caller.delete(id));
        fails(Status.Code.FAILED_PRECONDITION, "RUN_EXPIRED", () -> stage.complete(caller, start));
        stage.control.expectRequests(id, 1);

        String live = newId("delete_and_expired");
        stage.begin(caller, stage.start(live, "stall")).untilText("1 2 3");
        fails(Status.Code.FAILED_PRECONDITION, "RUN_LIVE", () -> caller.delete(live));
        equal(caller.cancel(live, "").getRun().getState(), RunState.RUN_STATE_CANCELLED, "state");
    }

    static void supersede(Stage stage) {
        String first = newId("supersede");
        Caller caller = stage.caller();
        Start start = inConversation(stage.start(first, "words"), first, null);
        Reader reader = stage.beginUntil(caller, start, "one", "one");
        Start refused = inConversation(
                stage.start(newId("supersede"), "hello"), first, ConversationPolicy.CONVERSATION_POLICY_REJECT);
        fails(Status.Code.FAILED_PRECONDITION, "CONVERSATION_BUSY", () -> stage.complete(caller, refused));
        String third = newId("supersede");
        Run next = stage.complete(caller, inConversation(
                stage.start(third, "hello"), first, ConversationPolicy.CONVERSATION_POLICY_SUPERSEDE));
        Checks.run(next, RunState.RUN_STATE_COMPLETED, HELLO);
        equal(List.copyOf(next.getSupersededRunIdsList()), List.of(first), "superseded runs");
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_CANCELLED, "one");
        equal(run.getCancelReason(), CancelReason.CANCEL_REASON_SUPERSEDED, "cancel reason");
        equal(run.getSupersededByRunId(), third, "the run that took its place");
        stage.control.expectClosed(first, 1);
    }

    private static Start inConversation(Start start, String first, ConversationPolicy policy) {
        var request = start.request().toBuilder().setConversationId("c-" + first);
        return start.with(policy == null ? request : request.setOnConflict(policy));
    }

    static void models(Stage stage) {
        var response = stage.caller().models();
        Model wanted = Model.newBuilder()
                .setName(stage.model("hello"))
                .setUpstream("sim")
                .setDialect("openai-chat")
                .build();
        boolean isThere = response.getModelsList().stream()
                .anyMatch(each -> wanted.equals(each.toBuilder().clearSupportsContinue().build()));
        that(isThere, "there is no " + wanted + " in " + response);
        equal(response.getUnreachableUpstreamsCount(), 0, "unreachable upstreams");
    }
}
