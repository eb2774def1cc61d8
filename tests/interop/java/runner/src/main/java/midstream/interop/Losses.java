package midstream.interop;

import static midstream.interop.Checks.equal;
import static midstream.interop.Checks.fails;
import static midstream.interop.Checks.newId;
import static midstream.interop.Checks.onlyPart;
import static midstream.interop.Checks.that;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import midstream.v1.PartState;
import midstream.v1.Run;
import midstream.v1.RunEvent.EventCase;
import midstream.v1.RunState;

/** The scenarios of lost connections, lost servers, later servers, and of what is left over. */
final class Losses {
    private static final String LETTERS = "abcdéfgh";
    private static final int AT_ONCE = 16;
    private static final int WARM_UP = 50;
    private static final int RUNS = 1_000;
    private static final int THREAD_SLACK = 4;
    private static final long RETRY_MILLISECONDS = 100;

    private Losses() {
    }

    static void serverMadeId(Stage stage) {
        RawCaller caller = (RawCaller) stage.caller();
        Reader reader = stage.begin(caller, Start.of("", stage.model("hello"), "nobody"));
        Run run = reader.toEnd();
        String id = caller.headers.get().get(Metadata.Key.of("midstream-run-id", Metadata.ASCII_STRING_MARSHALLER));
        that(id != null && !id.isEmpty(), "no midstream-run-id");
        equal(reader.started().orElseThrow().getRunId() + " " + run.getRunId(), id + " " + id, "ids");
    }

    static void forwardRule(Stage stage) {
        Reader reader = stage.begin(stage.scriptedCaller(), Start.of(newId("forward_rule"), "any/model", "hi"));
        if (reader instanceof RawReader raw) {
            while (raw.advance()) {
                // all of it
            }
            List<EventCase> kinds = raw.events.stream().map(event -> event.getEventCase()).toList();
            equal(kinds, List.of(EventCase.STARTED, EventCase.DELTA, EventCase.EVENT_NOT_SET, EventCase.DELTA,
                    EventCase.DELTA, EventCase.FINISHED), "kinds of events");
            equal(raw.events.get(3).getDelta().getPayloadCase().getNumber(), 0, "payload of the unknown delta");
        } else if (reader instanceof ClientReader client) {
            List<String> texts = new ArrayList<>();
            client.stream.forEachRemaining(delta -> texts.add(delta.text()));
            texts.removeIf(String::isEmpty);
            equal(texts + client.stream.text() + client.stream.lastSequence(), "[ab, cd]abcd6", "what came");
            equal(client.stream.result().getMessage().getPartsCount(), 3, "number of parts");
        }
    }

    static void resumeAtEveryEvent(Stage stage) {
        String id = newId("resume_at_every_event");
        Reader reader = stage.begin(stage.proxiedCaller(), stage.start(id, "letters"));
        stage.control.reached(id, "1");
        int cuts = stage.control.cut();
        for (int count = 1; count <= LETTERS.length(); count++) {
            stage.control.open(id, Integer.toString(count));
            reader.untilText(LETTERS.substring(0, count));
            cuts += stage.control.cut();
        }
        stage.control.open(id, "end");
        cuts += stage.control.cut();
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_COMPLETED, LETTERS);
        equal(onlyPart(run).getState(), PartState.PART_STATE_COMPLETE, "state of the part");
        that(stage.isRaw() || cuts > LETTERS.length(), "only " + cuts + " connections were cut");
        stage.control.expectRequests(id, 1);
    }

    static void serverRestartMidstream(Stage stage) {
        String id = newId("server_restart_midstream");
        Caller caller = stage.caller();
        Reader reader = stage.beginUntil(caller, stage.start(id, "words"), "one", "one");
        stage.control.post("/server/kill");
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_FAILED, "one");
        equal(reason(run), "OWNER_LOST", "reason");
        equal(onlyPart(run).getState(), PartState.PART_STATE_TRUNCATED, "state of the part");
        equal(stage.caller().get(id), run, "GetRun");
        stage.control.expectClosed(id, 1);
    }

    static void drain(Stage stage) throws ExecutionException, InterruptedException {
        String id = newId("drain");
        String other = newId("drain");
        Caller caller = stage.caller();
        Reader reader = stage.beginUntil(caller, stage.start(id, "words"), "one", "one");
        stage.control.post("/server/drain");
        ExecutorService executor = Executors.newSingleThreadExecutor();
        stage.kept(executor::shutdownNow);
        Future<Run> later;
        if (stage.isRaw()) {
            fails(Status.Code.UNAVAILABLE, "DRAINING", () -> startOnce(caller, stage.start(other, "hello")));
            later = null;
        } else {
            later = executor.submit(() -> stage.complete(stage.patientCaller(), stage.start(other, "hello")));
        }
        Checks.run(stage.caller().get(id), RunState.RUN_STATE_RUNNING, "one");
        stage.control.open(id, "two", "three", "end");
        Run run = reader.toEnd();
        Checks.run(run, RunState.RUN_STATE_COMPLETED, "one two three");
        stage.control.post("/server/start");
        Run second = later == null ? persistently(stage, other) : later.get();
        Checks.run(second, RunState.RUN_STATE_COMPLETED, "Hello, world");
        equal(stage.caller().get(id), run, "GetRun");
        stage.control.expectRequests(other, 1);
    }

    /** Without resuming: a deadline says so to the reader. */
    private static Run startOnce(Caller caller, Start start) {
        try (Reader reader = caller.start(start.within(java.time.Duration.ofSeconds(10)))) {
            return reader.toEnd();
        }
    }

    private static Run persistently(Stage stage, String id) throws InterruptedException {
        while (true) {
            try {
                return startOnce(stage.caller(), stage.start(id, "hello"));
            } catch (CallFailed failed) {
                equal(failed.code, Status.Code.UNAVAILABLE, "status");
            }
            Thread.sleep(RETRY_MILLISECONDS); // no busy loop against a server that is away
        }
    }

    static void leak(Stage stage) throws ExecutionException, InterruptedException {
        Caller caller = stage.caller();
        ExecutorService executor = Executors.newFixedThreadPool(AT_ONCE);
        stage.kept(executor::shutdownNow);
        leaveMany(stage, caller, executor, WARM_UP);
        stage.control.post("/leaks/mark");
        int before = ManagementFactory.getThreadMXBean().getThreadCount();
        String last = leaveMany(stage, caller, executor, RUNS);
        equal(stage.control.post("/leaks/check").getAsJsonArray("leaks").toString(), "[]", "leaks");
        int after = ManagementFactory.getThreadMXBean().getThreadCount();
        that(after <= before + THREAD_SLACK, after + " threads, " + before + " before");
        Checks.run(caller.getEnded(last), RunState.RUN_STATE_CANCELLED, "1 2 3");
    }

    private static String leaveMany(Stage stage, Caller caller, ExecutorService executor, int count)
            throws ExecutionException, InterruptedException {
        List<Future<String>> left = new ArrayList<>();
        for (int index = 0; index < count; index++) {
            left.add(executor.submit(() -> leaveOne(stage, caller)));
        }
        String last = "";
        for (Future<String> each : left) {
            last = each.get();
        }
        return last;
    }

    private static String leaveOne(Stage stage, Caller caller) {
        String id = newId("leak");
        Start start = stage.start(id, "stall");
        try (Reader reader = caller.start(stage.isRaw() ? start.cancelledByLeaving() : start)) {
            reader.untilText("1 2 3");
        }
        return id;
    }

    /** The only ErrorInfo of a failed run. */
    static String reason(Run run) {
        equal(run.getError().getDetailsCount(), 1, "details of the error");
        try {
            ErrorInfo info = run.getError().getDetails(0).unpack(ErrorInfo.class);
            equal(info.getDomain(), "midstream.v1", "domain");
            return info.getReason();
        } catch (InvalidProtocolBufferException error) {
            throw new AssertionError("the detail is no ErrorInfo", error);
        }
    }
}
