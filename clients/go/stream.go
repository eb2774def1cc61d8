package midstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const (
	leaveTimeout   = time.Second      // how long leaving a stream waits for the server to take the stop
	lastWordTime   = time.Second      // how long a call may take to end after its last event
	afterwardsWait = 60 * time.Second // how long Result waits for the ending of a run whose stream was left
	leaveReason    = "the client left the stream"
	endedEarly     = "the stream ended before the run did"
)

// RunStream is a run that is followed, delta by delta, across lost connections.
//
// One goroutine reads it (Next, Deltas, Result); any may call the other methods.
type RunStream struct {
	client  *Client
	caller  context.Context // what the stream was started with
	calls   context.Context // of its calls: it does not end with the caller's, since the stop has to come first
	release context.CancelFunc
	forget  func() bool   // ends the watch over the caller's context
	closing chan struct{} // closed when the stream is left
	leaving sync.Once
	leftErr error // only after leaving

	mutex     sync.Mutex // guards what follows
	follower  *follower
	call      *call
	resumeAt  time.Time
	pending   []Delta
	failure   error
	isStopped bool
}

func (c *Client) follow(ctx context.Context, follower *follower) (*RunStream, error) {
	calls, release := context.WithCancel(context.WithoutCancel(ctx))
	if deadline, hasDeadline := ctx.Deadline(); hasDeadline {
		calls, release = context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	made := &RunStream{
		client: c, caller: ctx, calls: calls, release: release, closing: make(chan struct{}), follower: follower,
	}
	if ctx.Err() != nil || c.isClosed() {
		release()
		return nil, made.closedError()
	}
	c.control.channel.Connect() // ahead of the first Cancel
	made.open()
	made.forget = context.AfterFunc(ctx, made.leave)
	return made, nil
}

// RunID is the run's id, known before the first answer.
func (s *RunStream) RunID() string { return s.follower.runID }

// Text is the answer's text so far: the text parts, joined.
func (s *RunStream) Text() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.follower.text()
}

// Message is a copy of the message so far.
func (s *RunStream) Message() *Message {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.follower.message()
}

// LastSequence is the last sequence that was received: what WatchOptions.AfterSequence takes.
func (s *RunStream) LastSequence() uint64 {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.follower.lastSequence
}

// Started is the run's first event; nil before it came.
func (s *RunStream) Started() *RunStarted {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.follower.started
}

// Progress is the latest news of the run that is not part of its log; nil if there was none.
func (s *RunStream) Progress() *RunProgress {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.follower.progress
}

// Final is the run as it ended; nil before.
func (s *RunStream) Final() *Run {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.follower.final
}

// Deltas are the deltas that are still to come, to the run's end or an error, which comes last. Leaving the loop loses
// nothing: another goes on where it was. It does not stop the run; Close does.
func (s *RunStream) Deltas() iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		for {
			delta, err := s.Next(context.Background())
			if err == io.EOF || !yield(delta, err) || err != nil {
				return
			}
		}
	}
}

// Next is the next delta. After the run's end it returns io.EOF, and Final says how it ended. The context is of this
// turn alone: if it ends, its error is returned, and the next turn goes on where this one was.
func (s *RunStream) Next(ctx context.Context) (Delta, error) {
	for {
		if delta, isReady, err := s.ready(); isReady || err != nil {
			return delta, err
		}
		if err := s.receive(ctx); err != nil {
			return Delta{}, err
		}
	}
}

// Cancel stops the run and returns it with its partial message. The stream goes on to the ending.
func (s *RunStream) Cancel(ctx context.Context, options *CancelOptions) (*Run, error) {
	result, err := s.client.Cancel(ctx, s.RunID(), options)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.isStopped = true
	return result.Run, nil
}

// Result follows the run to its end and returns it. Of a stream that was left it asks the server. A run that was
// cancelled or failed is a result, not an error: FailureOf makes an error of a failed one.
func (s *RunStream) Result(ctx context.Context) (*Run, error) {
	if final := s.Final(); final == nil && isDone(s.closing) {
		return s.endingAfterwards(ctx)
	}
	for {
		if _, err := s.Next(ctx); err == io.EOF {
			return s.Final(), nil
		} else if err != nil {
			return nil, err
		}
	}
}

// Close leaves the stream. Before the run's end it stops the run, unless it only watches: it waits at most 1 s for the
// server to take the stop, and returns an error if it did not. Safe to call twice, and from another goroutine.
func (s *RunStream) Close() error {
	s.forget()
	s.leave()
	return s.leftErr
}

// ready is what can be returned without waiting: a delta, the end, or the error that the stream ended with.
func (s *RunStream) ready() (Delta, bool, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	switch {
	case len(s.pending) > 0:
		delta := s.pending[0]
		s.pending = s.pending[1:]
		return delta, true, nil
	case s.failure != nil:
		return Delta{}, false, s.failure
	case s.follower.final != nil:
		return Delta{}, false, io.EOF
	default:
		return Delta{}, false, nil
	}
}

// receive takes one event, or what came in its place.
func (s *RunStream) receive(ctx context.Context) error {
	current, err := s.current(ctx)
	if err != nil {
		return err
	}
	select {
	case arrived := <-current.arrivals:
		return s.take(ctx, current, arrived)
	case <-ctx.Done():
		return s.turnError(ctx)
	case <-s.closing:
		return s.closedError()
	}
}

// current is the call that is open; if there is none, a new one, when it is time for it.
func (s *RunStream) current(ctx context.Context) (*call, error) {
	s.mutex.Lock()
	opened, delay := s.call, time.Until(s.resumeAt)
	s.mutex.Unlock()
	if opened != nil {
		return opened, nil
	}
	if err := s.pause(ctx, delay); err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if isDone(s.closing) || s.client.isClosed() {
		return nil, s.placedClosedError()
	}
	s.open()
	return s.call, nil
}

func (s *RunStream) pause(ctx context.Context, delay time.Duration) error {
	if delay <= 0 {
		return nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return s.turnError(ctx)
	case <-s.closing:
	case <-s.client.closed:
	}
	return s.closedError()
}

// open starts the next call. Under the mutex, so that none starts after leaving.
func (s *RunStream) open() {
	generate, watch := s.follower.nextRequest()
	s.call = startCall(s.calls, s.client.streams.stub, generate, watch)
}

func (s *RunStream) take(ctx context.Context, current *call, arrived arrival) error {
	if arrived.err == nil {
		return s.accept(current, arrived)
	}
	if arrived.err != io.EOF {
		return s.lose(errorOfCall(arrived.err))
	}
	hasEnded, err := s.hasSeenTheEnd(ctx)
	switch {
	case err != nil:
		return err
	case hasEnded:
		s.finish(current)
		return nil
	case ctx.Err() != nil:
		current.arrivals <- arrived // there is room, since it was the last: the next turn asks again
		return s.turnError(ctx)
	default:
		return s.lose(typed(&ClientError{Reason: "CONNECTION_LOST", Message: endedEarly, Code: codes.Unavailable}))
	}
}

func (s *RunStream) accept(current *call, arrived arrival) error {
	s.mutex.Lock()
	deltas, err := s.follower.accept(arrived.event)
	s.pending = append(s.pending, deltas...)
	s.failure = err
	isOver := s.follower.final != nil
	s.mutex.Unlock()
	if isOver {
		s.finish(current)
	}
	return err
}

// finish lets a call end by itself, since the server has said all, and gives back what the stream holds.
func (s *RunStream) finish(current *call) {
	s.forget()
	timer := time.NewTimer(lastWordTime)
	defer timer.Stop()
	select {
	case <-current.done:
	case <-timer.C:
	}
	s.release()
}

// hasSeenTheEnd says whether a call that ended well before a last event did so because the run was over.
func (s *RunStream) hasSeenTheEnd(ctx context.Context) (bool, error) {
	if s.LastSequence() == 0 {
		return false, nil
	}
	asking, stop := context.WithCancel(s.calls)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	run, err := s.client.Get(asking, s.RunID(), nil)
	if err != nil {
		return false, nil // the next call finds out
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	hasEnded, err := s.follower.endAt(run)
	s.failure = err
	return hasEnded, err
}

// lose decides what follows a call that ended before the run did.
func (s *RunStream) lose(err error) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.call.cancel()
	s.call = nil
	if isDone(s.closing) || s.client.isClosed() {
		s.follower.noteEnded(err)
		return s.placedClosedError()
	}
	delay, err := s.follower.lost(err)
	if err != nil {
		s.failure = err
		return err
	}
	s.resumeAt = time.Now().Add(delay)
	return nil
}

// leave stops the run if that is to be done, then ends the call, and waits for its goroutine.
func (s *RunStream) leave() {
	s.leaving.Do(func() {
		current, mustStop := s.beginLeaving()
		if mustStop {
			s.leftErr = s.stop()
		}
		s.release()
		if current != nil {
			<-current.done
		}
	})
}

func (s *RunStream) beginLeaving() (*call, bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	close(s.closing)
	isInFlight := false
	if s.call != nil {
		var err error
		if isInFlight, err = s.call.isInFlight(); err != nil {
			s.follower.noteEnded(err)
		}
	}
	return s.call, !s.isStopped && s.follower.mustStop(isInFlight)
}

// stop sends a Cancel on the control connection, though the caller's context may have ended.
func (s *RunStream) stop() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.caller), leaveTimeout)
	defer cancel()
	request := cancelRequest(s.RunID(), CancelOptions{Reason: leaveReason, NoWait: true})
	if _, err := s.client.control.stub.Cancel(ctx, request, grpc.WaitForReady(true)); err != nil {
		return fmt.Errorf("midstream: run %s: the stop did not reach the server: %w", s.RunID(), errorOfCall(err))
	}
	return nil
}

func (s *RunStream) endingAfterwards(ctx context.Context) (*Run, error) {
	run, err := s.client.Get(ctx, s.RunID(), &GetOptions{Wait: afterwardsWait})
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !IsEnding(run.GetState()) {
		err := newError("STREAM_CLOSED", "the stream was left, and the run has not ended since", nil)
		return nil, s.follower.withPlace(err)
	}
	s.follower.final = run
	return run, nil
}

// turnError is of a turn whose context ended, which may be the stream's own.
func (s *RunStream) turnError(ctx context.Context) error {
	if s.caller.Err() != nil {
		return s.closedError()
	}
	return ctx.Err()
}

func (s *RunStream) closedError() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.placedClosedError()
}

// placedClosedError says why the stream was left. Under the mutex.
func (s *RunStream) placedClosedError() error {
	cause := s.caller.Err()
	if errors.Is(cause, context.DeadlineExceeded) {
		return s.follower.withPlace(newError("DEADLINE_EXCEEDED", "the deadline of the stream passed", cause))
	}
	message := "the stream is closed"
	if cause != nil {
		message = "the context of the stream was cancelled"
	}
	return s.follower.withPlace(newError("STREAM_CLOSED", message, cause))
}
