package midstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const (
	initialBackoff = 100 * time.Millisecond
	maximumBackoff = time.Second
)

// follower is a reader's place in a run, and what it does next. It does no I/O and does not wait: the stream asks for
// the next call's request, hands over each event, and reports each way in which a call ended before the run did. The
// answer is how long to wait before the next call, or an error that says why there is none. It is not safe for several
// goroutines.
type follower struct {
	runID        string
	claims       bool // leaving stops the run
	lastSequence uint64
	started      *RunStarted
	progress     *RunProgress
	final        *Run

	generate   *midstreamv1.GenerateRequest // the opening request is this, or watch
	watch      *midstreamv1.WatchRunRequest
	parts      accumulator
	resumeTime time.Duration
	clock      func() time.Time
	jitter     func() float64 // 0 to 1
	lostTime   time.Time      // zero while connected
	attempt    int
	mayExist   bool // a call may have started the run though no event came
	heard      bool
}

func followGenerate(request *midstreamv1.GenerateRequest, resumeTime time.Duration) *follower {
	made := newFollower(request.GetRunId(), resumeTime)
	made.generate, made.claims = request, true
	return made
}

func followWatch(request *midstreamv1.WatchRunRequest, resumeTime time.Duration) *follower {
	made := newFollower(request.GetRunId(), resumeTime)
	made.watch, made.claims = request, request.GetClaim()
	made.lastSequence = request.GetAfterSequence()
	made.parts.beginsMidway = made.lastSequence > 0
	return made
}

func newFollower(runID string, resumeTime time.Duration) *follower {
	return &follower{runID: runID, resumeTime: resumeTime, clock: time.Now, jitter: rand.Float64}
}

// text is the text received so far, or of the final message.
func (f *follower) text() string {
	if f.final != nil {
		return TextOf(f.final.GetMessage())
	}
	return f.parts.text()
}

// message is a copy of the message so far, or of the final one.
func (f *follower) message() *Message {
	if f.final.GetMessage() != nil {
		return proto.CloneOf(f.final.GetMessage())
	}
	return f.parts.message()
}

// nextRequest is the request of the next call: one of the two.
func (f *follower) nextRequest() (*midstreamv1.GenerateRequest, *midstreamv1.WatchRunRequest) {
	if !f.heard || (f.lastSequence == 0 && f.watch.GetFromSnapshot()) {
		return f.generate, f.watch
	}
	start := &midstreamv1.WatchRunRequest_AfterSequence{AfterSequence: f.lastSequence}
	return nil, &midstreamv1.WatchRunRequest{RunId: f.runID, Start: start, Claim: f.claims}
}

// accept takes an event and returns what is new and known in it.
func (f *follower) accept(event *midstreamv1.RunEvent) ([]Delta, error) {
	f.heard = true
	f.lostTime = time.Time{}
	if event.GetProgress() != nil {
		f.progress = event.GetProgress()
		return nil, nil
	}
	if event.GetSequence() <= f.lastSequence {
		return nil, nil
	}
	deltas, err := f.acceptNew(event)
	if err != nil {
		return nil, f.withPlace(err)
	}
	f.lastSequence = event.GetSequence()
	f.attempt = 0
	return deltas, nil
}

func (f *follower) acceptNew(event *midstreamv1.RunEvent) ([]Delta, error) {
	if snapshot := event.GetSnapshot(); snapshot != nil {
		return f.acceptSnapshot(snapshot.GetRun().GetMessage(), event.GetSequence())
	}
	first := event.GetFirstSequence()
	if first == 0 {
		first = event.GetSequence()
	}
	if first > f.lastSequence+1 {
		return nil, gap("event %d came after event %d", first, f.lastSequence)
	}
	switch {
	case event.GetStarted() != nil:
		f.started = event.GetStarted()
	case event.GetFinished() != nil:
		return nil, f.end(event.GetFinished().GetRun())
	case event.GetDelta() != nil:
		return f.acceptDelta(event.GetDelta(), first, event.GetSequence())
	}
	return nil, nil
}

func (f *follower) acceptDelta(delta *midstreamv1.MessageDelta, first, sequence uint64) ([]Delta, error) {
	folded, err := f.parts.fold(delta, first <= f.lastSequence)
	if err != nil {
		return nil, err
	}
	if made, isKnown := deltaOf(folded, max(first, f.lastSequence+1), sequence); isKnown {
		return []Delta{made}, nil
	}
	return nil, nil
}

func (f *follower) acceptSnapshot(message *Message, sequence uint64) ([]Delta, error) {
	folded, err := f.parts.foldSnapshot(message)
	if err != nil {
		return nil, err
	}
	deltas := make([]Delta, 0, len(folded))
	for _, each := range folded {
		if made, isKnown := deltaOf(each, f.lastSequence+1, sequence); isKnown {
			deltas = append(deltas, made)
		}
	}
	return deltas, nil
}

// endAt takes the run in place of its last event, where that had been received before: the cursor was its end. If it is
// not so, the stream that ended was cut off. The error is of a run that says another thing than what was received: a
// store that fails over may lose what it had told.
func (f *follower) endAt(run *Run) (bool, error) {
	if !IsEnding(run.GetState()) || run.GetLastSequence() != f.lastSequence {
		return false, nil
	}
	if err := f.end(run); err != nil {
		return false, f.withPlace(err)
	}
	return true, nil
}

// end takes the run as it ended; the error says that what was received is not what it says.
func (f *follower) end(run *Run) error {
	f.final = run
	return f.parts.checkFinal(run.GetMessage())
}

// lost says how long to wait before the next call, after one that ended before the run did. The error is that of the
// call, with the partial, where another call cannot help or the time to resume is over.
func (f *follower) lost(err error) (time.Duration, error) {
	f.noteEnded(err)
	if !isResumable(err) {
		return 0, f.withPlace(err)
	}
	now := f.clock()
	if f.lostTime.IsZero() {
		f.lostTime = now
	}
	delay := max(f.backoff(), baseOf(err).RetryAfter)
	if !now.Add(delay).Before(f.lostTime.Add(f.resumeTime)) {
		return 0, f.withPlace(err)
	}
	f.attempt++
	return delay, nil
}

// backoff is at once, then doubling, with jitter.
func (f *follower) backoff() time.Duration {
	if f.attempt == 0 {
		return 0
	}
	ceiling := min(maximumBackoff, initialBackoff<<min(f.attempt-1, 10))
	return time.Duration(float64(ceiling) * (0.5 + 0.5*f.jitter()))
}

// noteEnded takes note of a call that ended. One that was not refused may have started the run, though no event came.
func (f *follower) noteEnded(err error) {
	_, isLost := errors.AsType[*ConnectionLost](err)
	code := baseOf(err).Code
	hasSaidWhy := code == codes.Unavailable && !isLost
	f.mayExist = f.mayExist || !(hasSaidWhy || isRefusal(code))
}

// mustStop says whether leaving now has to stop the run. Not if the server had refused it: a cancel would then be
// remembered for an id that never ran, or hit the run of somebody else that has this id.
func (f *follower) mustStop(isInFlight bool) bool {
	return f.claims && f.final == nil && (isInFlight || f.heard || f.mayExist)
}

// withPlace is the error, with what was received.
func (f *follower) withPlace(err error) error {
	base := baseOf(err)
	base.RunID = f.runID
	base.LastSequence = f.lastSequence
	if partial := f.message(); len(partial.GetParts()) > 0 {
		base.Partial = partial
	}
	return err
}

func baseOf(err error) *ClientError {
	base, isOurs := errors.AsType[*ClientError](err)
	if !isOurs {
		panic(fmt.Sprintf("midstream: an error that was not translated: %v", err))
	}
	return base
}

func isRefusal(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied, codes.NotFound, codes.AlreadyExists,
		codes.FailedPrecondition, codes.ResourceExhausted, codes.OutOfRange, codes.Unimplemented:
		return true
	default:
		return false
	}
}

func isResumable(err error) bool {
	base := baseOf(err)
	switch base.Code {
	case codes.Unavailable:
		return true
	case codes.Internal, codes.Unknown, codes.Canceled:
		// What a broken connection looks like besides UNAVAILABLE, if no reason of Midstream comes with it.
		return base.Reason == ""
	default:
		return base.Reason == "SLOW_READER"
	}
}
