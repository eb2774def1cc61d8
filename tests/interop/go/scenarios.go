package main

import (
	"encoding/hex"
	"strings"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// scenarios are those of scenarios.json, by name; what each shows stands there.
var scenarios = map[string]func(*scenarioRun){
	"complete":                    complete,
	"server_made_id":              serverMadeID,
	"cancel_before_start":         cancelBeforeStart,
	"cancel_after_begin":          cancelAfterBegin,
	"cancel_after_first_delta":    cancelAfterFirstDelta,
	"cancel_by_leaving":           cancelByLeaving,
	"cancel_by_id_from_elsewhere": cancelByIDFromElsewhere,
	"early_cancel_remembered":     earlyCancelRemembered,
	"deadline":                    deadline,
	"time_limit":                  timeLimit,
	"failed_run":                  failedRun,
	"slow_reader":                 slowReader,
	"large_message":               largeMessage,
	"unicode_everywhere":          unicodeEverywhere,
	"tool_call_cut":               toolCallCut,
	"reasoning":                   reasoning,
	"duplicate_start":             duplicateStart,
	"conflicting_start":           conflictingStart,
	"watch_after_end":             watchAfterEnd,
	"watch_from_snapshot":         watchFromSnapshot,
	"unknown_run":                 unknownRun,
	"invalid_argument":            invalidArgument,
	"resume_at_every_event":       resumeAtEveryEvent,
	"list_pages":                  listPages,
	"delete_and_expired":          deleteAndExpired,
	"supersede":                   supersede,
	"models":                      models,
	"forward_rule":                forwardRule,
	"server_restart_midstream":    serverRestartMidstream,
	"drain":                       drain,
	"leak":                        leak,
}

const (
	hello     = "Hello, world"
	largeText = 196000 // times 16 bytes

	completePart  = midstreamv1.PartState_PART_STATE_COMPLETE
	truncatedPart = midstreamv1.PartState_PART_STATE_TRUNCATED
	requested     = midstreamv1.CancelReason_CANCEL_REASON_REQUESTED
	cancelled     = midstreamv1.CancelResponse_OUTCOME_CANCELLED
	remembered    = midstreamv1.CancelResponse_OUTCOME_REMEMBERED
)

func complete(r *scenarioRun) {
	id, side := r.newID(), r.here()
	run := toEnd(side.start(r.request(id, "hello"), 0))

	isCompleted(run, hello)
	equal(run.GetRunId(), id, "run_id")
	equal(run.GetModel(), r.Models["hello"], "the model")
	equal(run.GetFinishReason(), midstreamv1.FinishReason_FINISH_REASON_STOP, "finish_reason")
	equal(run.GetCancelReason(), 0, "cancel_reason")
	equal(run.GetAttempts(), 1, "attempts")
	equal(run.GetUsage().GetOutput().GetValue(), 3, "output tokens")
	equal(run.GetUsage().GetOutput().GetSource(), midstreamv1.UsageSource_USAGE_SOURCE_UPSTREAM_FINAL, "their source")
	onePart(run, completePart)
	same(r.get(side, id), run, "GetRun")
	equal(r.tell("/upstream/see", "run_id", id).Open, 0, "open upstream")
	r.saw(id, 1)
}

func serverMadeID(r *scenarioRun) {
	request := r.request("", "hello")
	request.Messages = []*midstreamv1.Message{userMessage("nobody")}
	stream := r.here().start(request, 0).(*rawStream)
	must(stream.openError, "Generate")
	header, err := stream.call.Header()
	must(err, "the initial metadata")
	ids := header.Get("midstream-run-id")
	expect(len(ids) == 1 && ids[0] != "", "midstream-run-id is %v", ids)
	equal(toEnd(stream).GetRunId(), ids[0], "the final run's id")
	equal(stream.started().GetRunId(), ids[0], "RunStarted.run_id")
}

func slowReader(r *scenarioRun) {
	id := r.newID()
	stream := r.here().start(r.request(id, "large"), 0)
	if r.isClient() {
		r.tell("/upstream/arrived", "run_id", id)
	} else {
		must(stream.step(), "reading RunStarted")
	}
	run := r.getEnded(r.here(), id)
	isCompleted(run, strings.Repeat("0123456789abcdef", largeText))
	same(toEnd(stream), run, "the final run")
}

func largeMessage(r *scenarioRun) {
	id, side := r.newID(), r.here()
	run := toEnd(side.start(r.request(id, "large"), 0))
	text := strings.Repeat("0123456789abcdef", largeText)
	isCompleted(run, text)
	same(r.get(side, id), run, "GetRun")
	isCompleted(toEnd(side.watch(snapshotOf(id))), text)
}

func snapshotOf(id string) *midstreamv1.WatchRunRequest {
	return &midstreamv1.WatchRunRequest{RunId: id, Start: &midstreamv1.WatchRunRequest_FromSnapshot{FromSnapshot: true}}
}

func after(id string, sequence uint64) *midstreamv1.WatchRunRequest {
	start := &midstreamv1.WatchRunRequest_AfterSequence{AfterSequence: sequence}
	return &midstreamv1.WatchRunRequest{RunId: id, Start: start}
}

func unicodeEverywhere(r *scenarioRun) {
	bytes, err := hex.DecodeString("4772c3bcc39f652c20e4b896e7958c2120f09f91a9e2808df09f91a9e2808df09f91a7" +
		"e2808df09f91a62065cc8120d7a9d79cd795d79d20e280aee280a8c285efbbbf09225c0a20f09d849ef09f87a9f09f87aa2e")
	must(err, "the scenario's text")
	id, side := r.newID(), r.here()
	request := r.request(id, "unicode")
	prompt := id + "\n" + string(bytes)
	request.Messages = []*midstreamv1.Message{userMessage(prompt)}
	request.Labels = map[string]string{"k": "ключ 🔑"}
	run := toEnd(side.start(request, 0))
	isCompleted(run, string(bytes))
	equal(run.GetLabels()["k"], "ключ 🔑", "the label")
	equal(r.tell("/upstream/see", "run_id", id).Prompt, prompt, "the prompt upstream")

	other := r.newID()
	stream := side.start(r.request(other, "stall"), 0)
	until(stream, "1 2 3")
	run = r.cancels(side, other, "стоп ✋", cancelled)
	equal(run.GetCancel().GetReason(), "стоп ✋", "the reason")
	stream.leave()
}

func toolCallCut(r *scenarioRun) {
	id, side := r.newID(), r.here()
	tools := []*midstreamv1.Tool{{Name: "get_weather", ParametersSchema: `{"type":"object"}`}}
	request := r.request(id, "tool")
	request.Tools = tools
	stream := side.start(request, 0)
	untilThat(stream, func(message *midstreamv1.Message) bool {
		parts := message.GetParts()
		return len(parts) > 0 && parts[0].GetToolCall().GetArguments() == `{"city"`
	})
	cut := &midstreamv1.Message{Role: midstreamv1.Role_ROLE_ASSISTANT, Parts: []*midstreamv1.Part{
		weatherCall(`{"city"`, truncatedPart),
	}}
	same(r.cancels(side, id, "", cancelled).GetMessage(), cut, "the message of the answer")
	replay, err := side.get(&midstreamv1.GetRunRequest{
		RunId: id, MessageView: midstreamv1.MessageView_MESSAGE_VIEW_REPLAY,
	})
	must(err, "GetRun, REPLAY")
	expect(replay.GetMessage() == nil, "the REPLAY view has a message: %v", replay.GetMessage())
	same(r.get(side, id).GetMessage(), cut, "the message of GetRun")
	stream.leave()

	whole := r.newID()
	request = r.request(whole, "tool")
	request.Tools = tools
	stream = side.start(request, 0)
	r.openGates(whole, "half", "end")
	run := toEnd(stream)
	isCompleted(run, "")
	equal(run.GetFinishReason(), midstreamv1.FinishReason_FINISH_REASON_TOOL_CALLS, "finish_reason")
	same(onePart(run, completePart), weatherCall(`{"city": "Paris"}`, completePart), "the part")
}

func weatherCall(arguments string, state midstreamv1.PartState) *midstreamv1.Part {
	call := &midstreamv1.ToolCall{Id: "call_1", Name: "get_weather", Arguments: arguments}
	return &midstreamv1.Part{Part: &midstreamv1.Part_ToolCall{ToolCall: call}, State: state}
}

func reasoning(r *scenarioRun) {
	id := r.newID()
	stream := r.here().start(r.request(id, "thinking"), 0)
	untilThat(stream, func(message *midstreamv1.Message) bool {
		parts := message.GetParts()
		return len(parts) > 0 && parts[0].GetReasoning().GetText() == "First, think."
	})
	equal(textOf(stream.message()), "", "the text")
	r.openGates(id, "answer")
	run := toEnd(stream)
	isCompleted(run, "The answer.")
	parts := run.GetMessage().GetParts()
	equal(len(parts), 2, "the number of parts")
	equal(parts[0].GetReasoning().GetText(), "First, think.", "the reasoning")
	equal(parts[1].GetText().GetText(), "The answer.", "the answer")
	equal(parts[0].GetState(), completePart, "the state of the reasoning")
	equal(parts[1].GetState(), completePart, "the state of the answer")
}

func listPages(r *scenarioRun) {
	side := r.here()
	ids := []string{r.newID(), r.newID(), r.newID(), r.newID(), r.newID()}
	group := map[string]string{"group": ids[0]}
	for _, id := range ids {
		request := r.request(id, "hello")
		request.Labels = group
		isCompleted(toEnd(side.start(request, 0)), hello)
	}
	request := &midstreamv1.ListRunsRequest{Labels: group, PageSize: 2}
	listed, err := side.list(request)
	must(err, "listing")
	if raw, isRaw := side.(*rawSide); isRaw {
		listed = listRaw(raw, request)
	}
	equal(len(listed), len(ids), "the runs that are listed")
	for index, run := range listed {
		equal(run.GetRunId(), ids[len(ids)-1-index], "the order of the list")
		equal(run.GetState(), midstreamv1.RunState_RUN_STATE_COMPLETED, "the state of a listed run")
		expect(run.GetMessage() == nil, "a listed run has a message")
	}
	none, err := side.list(&midstreamv1.ListRunsRequest{
		Labels: group, State: midstreamv1.RunState_RUN_STATE_CANCELLED,
	})
	must(err, "listing what was cancelled")
	equal(len(none), 0, "the cancelled runs of the group")
}

// listRaw reads page by page.
func listRaw(side *rawSide, request *midstreamv1.ListRunsRequest) []*midstreamv1.Run {
	listed, tokens := []*midstreamv1.Run{}, []string{}
	for _, size := range []int{2, 2, 1} {
		page, err := side.stub().ListRuns(side.context(), request)
		must(err, "a page")
		equal(len(page.GetRuns()), size, "the runs on a page")
		listed = append(listed, page.GetRuns()...)
		request.PageToken = page.GetNextPageToken()
		tokens = append(tokens, request.PageToken)
	}
	equal(tokens[2], "", "the token after the last page")
	_, err := side.list(&midstreamv1.ListRunsRequest{
		Labels: map[string]string{"group": "other"}, PageSize: 2, PageToken: tokens[0],
	})
	fails(err, codes.InvalidArgument, "INVALID_REQUEST")
	return listed
}

func deleteAndExpired(r *scenarioRun) {
	id, side := r.newID(), r.here()
	isCompleted(toEnd(side.start(r.request(id, "hello"), 0)), hello)
	must(side.remove(id), "DeleteRun")
	_, err := side.get(&midstreamv1.GetRunRequest{RunId: id})
	fails(err, codes.NotFound, "RUN_EXPIRED")
	failsReading(side.watch(&midstreamv1.WatchRunRequest{RunId: id}), codes.NotFound, "RUN_EXPIRED")
	fails(side.remove(id), codes.NotFound, "RUN_EXPIRED")
	stream := side.start(r.request(id, "hello"), 0)
	failsReading(stream, codes.FailedPrecondition, "RUN_EXPIRED")
	stream.leave()
	r.saw(id, 1)

	live := r.newID()
	stream = side.start(r.request(live, "stall"), 0)
	until(stream, "1 2 3")
	fails(side.remove(live), codes.FailedPrecondition, "RUN_LIVE")
	r.cancels(side, live, "", cancelled)
	stream.leave()
}

func supersede(r *scenarioRun) {
	first, busy, third, side := r.newID(), r.newID(), r.newID(), r.here()
	start := func(id, script string, policy midstreamv1.ConversationPolicy) stream {
		request := r.request(id, script)
		request.ConversationId, request.OnConflict = "c-"+first, policy
		return side.start(request, 0)
	}
	reader := start(first, "words", midstreamv1.ConversationPolicy_CONVERSATION_POLICY_UNSPECIFIED)
	r.openGates(first, "one")
	until(reader, "one")
	refused := start(busy, "hello", midstreamv1.ConversationPolicy_CONVERSATION_POLICY_REJECT)
	failsReading(refused, codes.FailedPrecondition, "CONVERSATION_BUSY")
	refused.leave()
	run := toEnd(start(third, "hello", midstreamv1.ConversationPolicy_CONVERSATION_POLICY_SUPERSEDE))
	isCompleted(run, hello)
	equal(strings.Join(run.GetSupersededRunIds(), " "), first, "superseded_run_ids")
	run = toEnd(reader)
	isCancelled(run, midstreamv1.CancelReason_CANCEL_REASON_SUPERSEDED, "one")
	equal(run.GetSupersededByRunId(), third, "superseded_by_run_id")
	r.closed(first, 1)
}

func models(r *scenarioRun) {
	response, err := r.here().models()
	must(err, "ListModels")
	equal(len(response.GetUnreachableUpstreams()), 0, "unreachable upstreams")
	for _, model := range response.GetModels() {
		if model.GetName() == r.Models["hello"] {
			equal(model.GetUpstream(), "sim", "the upstream")
			equal(model.GetDialect(), "openai-chat", "the dialect")
			return
		}
	}
	expect(false, "%s is not listed", r.Models["hello"])
}

func forwardRule(r *scenarioRun) {
	request := r.request(r.newID(), "hello")
	request.Model = "any/model"
	stream := r.on(r.ScriptedTarget).start(request, 0)
	if raw, isRaw := stream.(*rawStream); isRaw {
		raw.isPartial = true // the unknown part has no payload that could be compared
		toEnd(stream)
		equal(len(raw.events), 6, "the number of events")
		expect(raw.events[2].GetEvent() == nil, "the third event is known")
		fourth := raw.events[3].GetDelta()
		expect(fourth != nil && fourth.GetPayload() == nil, "the fourth payload is known")
		return
	}
	run, client := toEnd(stream), stream.(*clientStream)
	equal(strings.Join(client.texts, "|"), "ab||cd", "the texts of the deltas, the part's end between them")
	equal(client.run.Text(), "abcd", "the text")
	equal(client.run.LastSequence(), 6, "the last sequence")
	equal(len(run.GetMessage().GetParts()), 3, "the number of parts")
}

func timeLimit(r *scenarioRun) {
	id := r.newID()
	request := r.request(id, "stall")
	request.Limits = &midstreamv1.RunLimits{Total: durationpb.New(300 * time.Millisecond)}
	stream := r.here().start(request, 0)
	run := toEnd(stream)
	isCancelled(run, midstreamv1.CancelReason_CANCEL_REASON_TIME_LIMIT, "1 2 3")
	onePart(run, truncatedPart)
	equal(stream.started().GetLimits().GetTotal().AsDuration(), 300*time.Millisecond, "RunStarted.limits.total")
	r.closed(id, 1)
}
