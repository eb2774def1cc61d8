package main

import (
	"context"
	"errors"
	"io"
	"time"

	midstream "github.com/midstream-dev/midstream/clients/go"
	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
)

func cancelBeforeStart(r *scenarioRun) {
	id, side := r.newID(), r.here()
	side.start(r.rawCancels(r.request(id, "silent")), 0).leave()
	run, err := side.get(&midstreamv1.GetRunRequest{RunId: id, WaitUntilFinished: true})
	if err != nil {
		fails(err, codes.NotFound, "RUN_NOT_FOUND")
	} else {
		reason := run.GetCancelReason()
		expect(reason == requested || reason == midstreamv1.CancelReason_CANCEL_REASON_CLIENT_GONE,
			"the cancel reason is %s", reason)
		isCancelled(run, reason, "")
	}
	saw := r.tell("/upstream/closed", "run_id", id)
	expect(saw.Requests <= 1 && saw.Open == 0, "the upstream saw %d requests, %d are open", saw.Requests, saw.Open)
}

func cancelAfterBegin(r *scenarioRun) {
	id, side := r.newID(), r.here()
	stream := side.start(r.request(id, "silent"), 0)
	r.tell("/upstream/arrived", "run_id", id)
	run := r.cancels(side, id, "too slow", cancelled)
	isCancelled(run, requested, "")
	equal(run.GetCancel().GetReason(), "too slow", "the reason")
	equal(run.GetFinishReason(), 0, "finish_reason")
	r.closed(id, 1)
	same(toEnd(stream), run, "the final run")
}

func cancelAfterFirstDelta(r *scenarioRun) {
	id, side := r.newID(), r.here()
	stream := side.start(r.request(id, "words"), 0)
	r.openGates(id, "one")
	until(stream, "one")
	run := r.cancels(side, id, "enough", cancelled)
	isCancelled(run, requested, "one")
	onePart(run, truncatedPart)
	equal(run.GetCancel().GetReason(), "enough", "the reason")
	equal(r.closed(id, 1).TextSent, "one", "the text that the upstream sent")
	same(toEnd(stream), run, "the final run")
	same(r.cancels(side, id, "again", cancelled), run, "the run of the second answer")
	same(r.get(side, id), run, "GetRun")
}

func cancelByLeaving(r *scenarioRun) {
	id, side := r.newID(), r.here()
	stream := side.start(r.rawCancels(r.request(id, "words")), 0)
	r.openGates(id, "one")
	until(stream, "one")
	left := time.Now()
	stream.leave()
	r.closed(id, 1)
	expect(!r.isClient() || time.Since(left) < 2*time.Second, "the upstream was closed only after %s", time.Since(left))
	reason := requested
	if !r.isClient() {
		reason = midstreamv1.CancelReason_CANCEL_REASON_CLIENT_GONE
	}
	isCancelled(r.getEnded(side, id), reason, "one")
}

func cancelByIDFromElsewhere(r *scenarioRun) {
	id := r.newID()
	stream := r.here().start(r.request(id, "words"), 0)
	r.openGates(id, "one")
	until(stream, "one")
	run := r.cancels(r.here(), id, "", cancelled)
	isCancelled(run, requested, "one")
	same(toEnd(stream), run, "the final run")
	r.closed(id, 1)
}

func earlyCancelRemembered(r *scenarioRun) {
	id, side := r.newID(), r.here()
	run := r.cancels(side, id, "never", remembered)
	isCancelled(run, requested, "")
	equal(run.GetLastSequence(), 2, "last_sequence")
	r.cancels(side, id, "", remembered)
	run = toEnd(side.start(r.request(id, "hello"), 0))
	isCancelled(run, requested, "")
	equal(run.GetLastSequence(), 2, "last_sequence of the final run")
	equal(run.GetCancel().GetReason(), "never", "the reason")
	equal(run.GetAttempts(), 0, "attempts")
	expect(run.GetMessage() == nil && run.GetStartTime() == nil, "a message or a start time: %v", run)
	r.cancels(side, id, "", cancelled)
	r.saw(id, 0)
}

func deadline(r *scenarioRun) {
	id, side := r.newID(), r.here()
	request := r.request(id, "stall")
	request.OnDetach = &midstreamv1.DetachPolicy{Action: midstreamv1.DetachPolicy_ACTION_CANCEL}
	stream := side.start(request, time.Second)
	until(stream, "1 2 3")
	failed := reading(stream)
	equal(failed.code, codes.DeadlineExceeded, "how the call ended")
	if r.isClient() {
		ours, _ := errors.AsType[*midstream.ClientError](failed.original)
		equal(midstream.TextOf(ours.Partial), "1 2 3", "the partial of the error")
		expect(errors.Is(failed.original, context.DeadlineExceeded), "errors.Is does not see the deadline")
	}
	stream.leave()
	run := r.getEnded(side, id)
	reason := run.GetCancelReason()
	expect(reason == midstreamv1.CancelReason_CANCEL_REASON_DEADLINE || r.isClient() && reason == requested,
		"the cancel reason is %s", reason)
	isCancelled(run, reason, "1 2 3")
	r.closed(id, 1)
}

// reading reads until the stream fails, however.
func reading(stream stream) *told {
	for {
		err := stream.step()
		if failed, isTold := errors.AsType[*told](err); isTold {
			return failed
		}
		expect(err != io.EOF, "the stream ended well")
	}
}

func failedRun(r *scenarioRun) {
	id := r.newID()
	stream := r.here().start(r.request(id, "truncated"), 0)
	run := toEnd(stream)
	equal(run.GetState(), midstreamv1.RunState_RUN_STATE_FAILED, "the state")
	equal(textOf(run.GetMessage()), "1 2 3", "the text")
	equal(run.GetFinishReason(), 0, "finish_reason")
	equal(run.GetCancelReason(), 0, "cancel_reason")
	equal(len(run.GetError().GetDetails()), 1, "the details of the error")
	info := &errdetails.ErrorInfo{}
	must(run.GetError().GetDetails()[0].UnmarshalTo(info), "the detail")
	equal(info.GetDomain(), "midstream.v1", "the domain")
	equal(info.GetReason(), "UPSTREAM_TRUNCATED", "the reason")
	if client, isClient := stream.(*clientStream); isClient {
		result, err := client.run.Result(context.Background())
		must(err, "the result of a failed run")
		failed, isTruncated := errors.AsType[*midstream.UpstreamTruncated](midstream.FailureOf(result))
		expect(isTruncated, "the failure of the run is %v", midstream.FailureOf(result))
		same(failed.Run, run, "the run of the failure")
	}
}
