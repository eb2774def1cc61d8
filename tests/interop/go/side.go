package main

import (
	"errors"
	"io"
	"strings"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

type connecting struct {
	target string
	tls    *tlsSettings
	apiKey *string
}

// side is a client of ours, or bare stubs, behind the same words, so that a scenario is written once. Errors are told.
type side interface {
	start(request *midstreamv1.GenerateRequest, timeout time.Duration) stream
	watch(request *midstreamv1.WatchRunRequest) stream
	cancel(runID, reason string) (*midstreamv1.CancelResponse, error)
	get(request *midstreamv1.GetRunRequest) (*midstreamv1.Run, error)
	list(request *midstreamv1.ListRunsRequest) ([]*midstreamv1.Run, error)
	remove(runID string) error
	models() (*midstreamv1.ListModelsResponse, error)
	close()
}

// stream is a run that is followed. It checks the transcript as it goes.
type stream interface {
	// step reads on; io.EOF after the good end.
	step() error
	// message is the message so far.
	message() *midstreamv1.Message
	started() *midstreamv1.RunStarted
	// final is the final run, after io.EOF.
	final() *midstreamv1.Run
	leave()
}

// told is an error as the scenarios need it.
type told struct {
	code     codes.Code
	reason   string
	fields   map[string]string
	original error
}

func (t *told) Error() string { return t.code.String() + " (" + t.reason + "): " + t.original.Error() }

func textOf(message *midstreamv1.Message) string {
	text := strings.Builder{}
	for _, part := range message.GetParts() {
		text.WriteString(part.GetText().GetText())
	}
	return text.String()
}

// until reads until the text is as wanted.
func until(stream stream, wanted string) {
	for textOf(stream.message()) != wanted {
		must(stream.step(), "reading until %q, at %q", wanted, textOf(stream.message()))
		text := textOf(stream.message())
		expect(strings.HasPrefix(wanted, text), "reading until %q: the text became %q", wanted, text)
	}
}

// untilThat reads until a condition on the message is met.
func untilThat(stream stream, isMet func(*midstreamv1.Message) bool) {
	for !isMet(stream.message()) {
		must(stream.step(), "reading on, at %v", stream.message())
	}
}

// toEnd reads to the good end.
func toEnd(stream stream) *midstreamv1.Run {
	for {
		err := stream.step()
		if err == io.EOF {
			expect(stream.final() != nil, "the stream ended well, but without a RunFinished")
			return stream.final()
		}
		must(err, "reading to the end")
	}
}

// fails expects a failure with a code and a reason.
func fails(err error, code codes.Code, reason string) *told {
	expect(err != nil, "expected %s (%s), but it went well", code, reason)
	failed, isTold := errors.AsType[*told](err)
	expect(isTold && failed.code == code && failed.reason == reason, "expected %s (%s), got %v", code, reason, err)
	return failed
}

// failsReading reads until the stream fails.
func failsReading(stream stream, code codes.Code, reason string) *told {
	for {
		if err := stream.step(); err != nil {
			expect(err != io.EOF, "expected %s (%s), but the stream ended well", code, reason)
			return fails(err, code, reason)
		}
	}
}

func same(got, wanted proto.Message, what string) {
	expect(proto.Equal(got, wanted), "%s: expected %v, got %v", what, wanted, got)
}

func (r *scenarioRun) get(from side, runID string) *midstreamv1.Run {
	run, err := from.get(&midstreamv1.GetRunRequest{RunId: runID})
	must(err, "GetRun")
	return run
}

func (r *scenarioRun) getEnded(from side, runID string) *midstreamv1.Run {
	run, err := from.get(&midstreamv1.GetRunRequest{RunId: runID, WaitUntilFinished: true})
	must(err, "GetRun, waiting")
	return run
}

// cancels expects a cancel with an outcome, and returns the run.
func (r *scenarioRun) cancels(
	from side, runID, reason string, outcome midstreamv1.CancelResponse_Outcome,
) *midstreamv1.Run {
	response, err := from.cancel(runID, reason)
	must(err, "Cancel")
	equal(response.GetOutcome(), outcome, "the outcome of Cancel")
	return response.GetRun()
}

// isCancelled expects a run that was cancelled, for this reason, with this text.
func isCancelled(run *midstreamv1.Run, reason midstreamv1.CancelReason, text string) {
	equal(run.GetState(), midstreamv1.RunState_RUN_STATE_CANCELLED, "the state")
	equal(run.GetCancelReason(), reason, "the cancel reason")
	equal(textOf(run.GetMessage()), text, "the text")
}

func isCompleted(run *midstreamv1.Run, text string) {
	equal(run.GetState(), midstreamv1.RunState_RUN_STATE_COMPLETED, "the state")
	equal(textOf(run.GetMessage()), text, "the text")
}

// onePart expects one part in a state, and returns it.
func onePart(run *midstreamv1.Run, state midstreamv1.PartState) *midstreamv1.Part {
	parts := run.GetMessage().GetParts()
	equal(len(parts), 1, "the number of parts")
	equal(parts[0].GetState(), state, "the state of the part")
	return parts[0]
}
