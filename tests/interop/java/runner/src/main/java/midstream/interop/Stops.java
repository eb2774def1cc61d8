package midstream.interop;

import static midstream.interop.Checks.equal;
import static midstream.interop.Checks.fails;
import static midstream.interop.Checks.newId;
import static midstream.interop.Checks.onlyPart;
import static midstream.interop.Checks.that;

import io.grpc.Status;
import java.time.Duration;
import midstream.client.errors.Interrupted;
import midstream.client.errors.MidstreamClientError;
import midstream.v1.CancelReason;
import midstream.v1.CancelResponse;
import midstream.v1.CancelResponse.Outcome;
import midstream.v1.FinishReason;
import midstream.v1.MessageView;
import midstream.v1.PartState;
import midstream.v1.Run;
import midstream.v1.RunState;
import midstream.v1.Tool;

/** The scenarios of stopping. */
final class Stops {
    private Stops() {
    }

    static void cancelBeforeStart(Stage stage) {
        String id = newId("cancel_before_start");
        Caller caller = stage.caller();
        stage.begin(caller, stage.start(id, "silent").cancelledByLeaving()).leave();

        try {
            Run run = caller.getEnded(id);
            Checks.run(run, RunState.RUN_STATE_CANCELLED, "");
            boolean isLeft = run.getCancelReason() == CancelReason.CANCEL_REASON_CLIENT_GONE;
            that(isLeft || run.getCancelReason() == CancelReason.CANCEL_REASON_REQUESTED, "cancel reason of " + run);
        } catch (CallFailed failed) {
            equal(failed.code + failed.reason, "NOT_FOUND" + "RUN_NOT_FOUND", "failure");
        }
        var seen = stage.control.upstream("closed", id);
        that(seen.get("requests").getAsInt() <= 1 && seen.get("open").getAsInt() == 0, "upstream: " + seen);
    }

    static void cancelAfterBegin(Stage stage) {
        String id = newId("cancel_after_begin");
        Caller caller = stage.caller();
        Reader reader = stage.begin(caller, stage.start(id, "silent"));
        stage.control.upstream("arrived", id);
        CancelResponse answer = caller.cancel(id, "too slow");

        expectCancelled(answer, "", "too slow");
        equal(answer.getRun().getFinishReason(), FinishReason.FINISH_REASON_UNSPECIFIED, "finish reason");
        stage.control.expectClosed(id, 1);
        equal(reader.toEnd(), answer.getRun(), "the final run");
    }

    static void cancelAfterFirstDelta(Stage stage) {
        String id = newId("cancel_after_first_delta");
        Caller caller = stage.caller();
        Reader reader = stage.beginUntil(caller, stage.start(id, "words"), "one", "one");
        CancelResponse answer = caller.cancel(id, "enough");

        expectCancelled(answer, "one", "enough");
        equal(onlyPart(answer.getRun()).getState(), PartState.PART_STATE_TRUNCATED, "state of the part");
        equal(stage.control.expectClosed(id, 1).get("text_sent").getAsString(), "one", "text sent upstream");
        equal(reader.toEnd(), answer.getRun(), "the final run");
        equal(caller.cancel(id, "again"), answer, "the answer to a repeat");
        equal(caller.get(id), answer.getRun(), "GetRun");
    }

    static void cancelByLeaving(Stage stage) {
        String id = newId("cancel_by_leaving");
        Caller caller = stage.caller();
        Start start = stage.start(id, "words");
        Reader reader = stage.beginUntil(caller, stage.isRaw() ? start.cancelledByLeaving() : start, "one", "one");
        long left = System.nanoTime();
        reader.leave();
        expectLeft(stage, caller, id, left);
        if (caller instanceof ClientCaller client) {
            cancelByInterrupt(stage, client);
        }
    }

    /** The other idiom: an interrupt of the thread that iterates throws, and so leaves the block. */
    private static void cancelByInterrupt(Stage stage, ClientCaller caller) {
        String id = newId("cancel_by_leaving");
        Reader reader = stage.beginUntil(caller, stage.start(id, "words"), "one", "one");
        Thread.currentThread().interrupt();
        try (reader) {
            ((ClientReader) reader).stream.hasNext();
            throw new AssertionError("an interrupted thread goes on");
        } catch (Interrupted error) {
            equal(error.partial().orElseThrow().getParts(0).getText().getText(), "one", "the partial of the error");
        }
        long left = System.nanoTime();
        that(Thread.interrupted(), "the interrupt flag is lost");
        expectLeft(stage, caller, id, left);
    }

    private static void expectLeft(Stage stage, Caller caller, String id, long left) {
        stage.control.expectClosed(id, 1);
        long milliseconds = Duration.ofNanos(System.nanoTime() - left).toMillis();
        that(stage.isRaw() || milliseconds < 2_000, "closed upstream after " + milliseconds + " ms");
        Run run = caller.getEnded(id);
        Checks.run(run, RunState.RUN_STATE_CANCELLED, "one");
        CancelReason wanted = stage.isRaw()
                ? CancelReason.CANCEL_REASON_CLIENT_GONE
                : CancelReason.CANCEL_REASON_REQUESTED;
        equal(run.getCancelReason(), wanted, "cancel reason");
    }

    static void cancelByIdFromElsewhere(Stage stage) {
        String id = newId("cancel_by_id_from_elsewhere");
        Reader reader = stage.beginUntil(stage.caller(), stage.start(id, "words"), "one", "one");
        CancelResponse answer = stage.caller().cancel(id, "");

        expectCancelled(answer, "one", "");
        equal(reader.toEnd(), answer.getRun(), "the final run");
        stage.control.expectClosed(id, 1);
    }

    static void earlyCancelRemembered(Stage stage) {
        String id = newId("early_cancel_remembered");
        Caller caller = stage.caller();
        CancelResponse answer = caller.cancel(id, "never");
        equal(answer.getOutcome(), Outcome.OUTCOME_REMEMBERED, "outcome");
        Checks.run(answer.getRun(), RunState.RUN_STATE_CANCELLED, "");
        equal(answer.getRun().getLastSequence(), 2L, "last sequence");
        equal(caller.cancel(id, "").getOutcome(), Outcome.OUTCOME_REMEMBERED, "outcome of a repeat");

        Reader reader = stage.begin(caller, stage.start(id, "hello"));
        Run run = reader.toEnd();
        equal(reader.transcript.entries(), 2, "entries");
        Checks.run(run, RunState.RUN_STATE_CANCELLED, "");
        equal(run.getCancelReason(), CancelReason.CANCEL_REASON_REQUESTED, "cancel reason");
        equal(run.getCancel().getReason(), "never", "the caller's reason");
        that(!run.hasMessage() && !run.hasStartTime() && run.getAttempts() == 0, "nothing was called: " + run);
        equal(caller.cancel(id, "").getOutcome(), Outcome.OUTCOME_CANCELLED, "outcome after the start");
        stage.control.expectRequests(id, 0);
    }

    static void deadline(Stage stage) {
        String id = newId("deadline");
        Caller caller = stage.caller();
        Start start = stage.start(id, "stall").cancelledByLeaving().within(Duration.ofSeconds(1));
        Reader reader = stage.begin(caller, start);
        reader.untilText("1 2 3");
        String reason = stage.isRaw() ? "" : "DEADLINE_EXCEEDED";
        CallFailed failed = fails(Status.Code.DEADLINE_EXCEEDED, reason, reader::toEnd);
        if (failed.getCause() instanceof MidstreamClientError error) {
            equal(error.partial().orElseThrow().getParts(0).getText().getText(), "1 2 3", "the partial of the error");
            equal(error.runId(), id, "the run of the error");
        }
        reader.leave();
        Run run = caller.getEnded(id);
        Checks.run(run, RunState.RUN_STATE_CANCELLED, "1 2 3");
        boolean isDeadline = run.getCancelReason() == CancelReason.CANCEL_REASON_DEADLINE;
        boolean isRequested = run.getCancelReason() == CancelReason.CANCEL_REASON_REQUESTED;
        that(isDeadline || isRequested && !stage.isRaw(), "cancel reason " + run.getCancelReason());
        stage.control.expectClosed(id, 1);
    }

    static void toolCallCut(Stage stage) {
        String id = newId("tool_call_cut");
        Caller caller = stage.caller();
        Reader reader = stage.begin(caller, withTool(stage.start(id, "tool")));
        reader.until(() -> reader.transcript.arguments().equals("{\"city\""), "half the arguments");
        CancelResponse answer = caller.cancel(id, "");
        equal(answer.getOutcome(), Outcome.OUTCOME_CANCELLED, "outcome");
        expectToolCall(answer.getRun(), "{\"city\"", PartState.PART_STATE_TRUNCATED);
        that(!caller.get(id, MessageView.MESSAGE_VIEW_REPLAY).hasMessage(), "half a tool call is offered for replay");
        expectToolCall(caller.get(id), "{\"city\"", PartState.PART_STATE_TRUNCATED);

        String other = newId("tool_call_cut");
        Reader whole = stage.begin(caller, withTool(stage.start(other, "tool")));
        stage.control.open(other, "half", "end");
        Run run = whole.toEnd();
        equal(run.getState() + " " + run.getFinishReason(), "RUN_STATE_COMPLETED FINISH_REASON_TOOL_CALLS", "ending");
        expectToolCall(run, "{\"city\": \"Paris\"}", PartState.PART_STATE_COMPLETE);
    }

    private static Start withTool(Start start) {
        Tool tool = Tool.newBuilder().setName("get_weather").setParametersSchema("{\"type\":\"object\"}").build();
        return start.with(start.request().toBuilder().addTools(tool));
    }

    private static void expectToolCall(Run run, String arguments, PartState state) {
        var part = onlyPart(run);
        equal(part.getToolCall().getId() + " " + part.getToolCall().getName(), "call_1 get_weather", "tool call");
        equal(part.getToolCall().getArguments(), arguments, "arguments");
        equal(part.getState(), state, "state of the part");
    }

    private static void expectCancelled(CancelResponse answer, String text, String reason) {
        equal(answer.getOutcome(), Outcome.OUTCOME_CANCELLED, "outcome");
        Checks.run(answer.getRun(), RunState.RUN_STATE_CANCELLED, text);
        equal(answer.getRun().getCancelReason(), CancelReason.CANCEL_REASON_REQUESTED, "cancel reason");
        equal(answer.getRun().getCancel().getReason(), reason, "the caller's reason");
    }
}
