package midstream

import (
	"context"
	"errors"
	"testing"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// A stream that is lost in any of these ways is followed from the last sequence, with the claim, without a seam.
func TestALostStreamIsResumed(t *testing.T) {
	log := textLog("ab", "cd")
	losses := map[string]error{
		"connection":  refusal(codes.Unavailable, ""),
		"draining":    refusal(codes.Unavailable, "DRAINING"),
		"slow reader": refusal(codes.Aborted, "SLOW_READER"),
		"transport":   refusal(codes.Internal, ""),
		"early end":   nil,
	}
	for name, loss := range losses {
		t.Run(name, func(t *testing.T) {
			server := serve(t, turn{events: log[:2], err: loss}, turn{events: log[1:]})
			server.run = &Run{State: RunStateRunning, LastSequence: 2}
			run := generate(t, server.client(t), context.Background())

			final, err := run.Result(context.Background())

			if err != nil || final.GetState() != RunStateCompleted || run.Text() != "abcd" {
				t.Fatalf("%v, %v, %q", final, err, run.Text())
			}
			requests := server.received()
			watch, isWatch := requests[len(requests)-1].(*midstreamv1.WatchRunRequest)
			if !isWatch || watch.GetAfterSequence() != 2 || !watch.GetClaim() || watch.GetRunId() != run.RunID() {
				t.Fatalf("resumed with %v", requests[len(requests)-1])
			}
		})
	}
}

// Before the first event the very same start is sent again.
func TestAStartThatWasLostIsRepeated(t *testing.T) {
	server := serve(t, turn{err: refusal(codes.Unavailable, "DRAINING")}, turn{events: textLog("ab")})
	run := generate(t, server.client(t), context.Background())

	if _, err := run.Result(context.Background()); err != nil {
		t.Fatal(err)
	}

	requests := server.received()
	if len(requests) != 2 || !proto.Equal(requests[0], requests[1]) {
		t.Fatalf("%v", requests)
	}
	request := requests[0].(*midstreamv1.GenerateRequest)
	if request.GetOnDetach().GetGrace().AsDuration() != 10*time.Second || len(request.GetRunId()) != 36 {
		t.Fatalf("%v", request)
	}
}

// When the time to resume is over, the loss is the error, with what was received; again and again.
func TestALossThatLastsIsTold(t *testing.T) {
	server := serve(t, turn{events: begun, err: refusal(codes.Unavailable, "")})
	run := generate(t, server.client(t, WithResumeTime(0)), context.Background())

	for range 2 {
		_, err := run.Result(context.Background())
		lost, isLost := errors.AsType[*ConnectionLost](err)
		if !isLost || lost.LastSequence != 2 || TextOf(lost.Partial) != "ab" || lost.RunID != run.RunID() {
			t.Fatalf("%v", err)
		}
	}
}

// A run whose last event had been seen before is over: the stream ends well, and the run comes from GetRun.
func TestAWatchAfterTheEndGivesTheRun(t *testing.T) {
	server := serve(t, turn{})
	server.run = finishedEvent(4, "abcd").GetFinished().GetRun()
	run, err := server.client(t).Watch(context.Background(), "run", &WatchOptions{AfterSequence: 4})
	if err != nil {
		t.Fatal(err)
	}

	if final, err := run.Result(context.Background()); err != nil || TextOf(final.GetMessage()) != "abcd" {
		t.Fatalf("%v, %v", final, err)
	}
}

// An ending that is not what was received is told, though its sequence is right, and stays.
func TestAnEndingThatIsNotWhatWasReceivedIsTold(t *testing.T) {
	server := serve(t, turn{events: begun})
	server.run = finishedEvent(2, "AB").GetFinished().GetRun()
	run := generate(t, server.client(t), context.Background())

	for range 2 {
		_, err := run.Result(context.Background())
		if gap, isGap := errors.AsType[*StreamGapError](err); !isGap || gap.LastSequence != 2 || gap.RunID != run.RunID() {
			t.Fatalf("%v", err)
		}
	}
}

// A turn that is given up does not wait for the answer to whether the run has ended, and the next one asks again.
func TestATurnThatIsGivenUpAsksAgain(t *testing.T) {
	log := textLog("ab", "cd")
	server := serve(t, turn{events: log[:2]}, turn{events: log[2:]})
	server.asked = make(chan struct{}, 1)
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)
	turnContext, cancel := context.WithCancel(context.Background())
	go func() {
		<-server.asked
		cancel()
	}()

	started := time.Now()

	_, err := run.Next(turnContext)

	if waited := time.Since(started); err != context.Canceled || waited > 5*time.Second {
		t.Fatalf("%v, after %s", err, waited)
	}
	server.mutex.Lock()
	server.asked, server.run = nil, &Run{State: RunStateRunning, LastSequence: 2}
	server.mutex.Unlock()
	if final, err := run.Result(context.Background()); err != nil || run.Text() != "abcd" || server.cancels() != 0 {
		t.Fatalf("%v, %v, %q", final, err, run.Text())
	}
}

// Closing does not wait for that answer either, and whoever reads is told.
func TestClosingDoesNotWaitForTheAnswer(t *testing.T) {
	server := serve(t, turn{events: begun})
	server.asked = make(chan struct{}, 1)
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)
	ended := make(chan error, 1)
	go func() {
		_, err := run.Next(context.Background())
		ended <- err
	}()
	<-server.asked
	started := time.Now()

	err := run.Close()

	if waited := time.Since(started); err != nil || waited > 5*time.Second || server.cancels() != 1 {
		t.Fatalf("%v, after %s, %d cancels", err, waited, server.cancels())
	}
	if err := <-ended; !isA[*StreamClosed](err) {
		t.Fatalf("%v", err)
	}
}

// A gap is told, with what was received, and stays.
func TestAGapInTheStreamIsTold(t *testing.T) {
	server := serve(t, turn{events: begun, later: []*midstreamv1.RunEvent{deltaEvent(4, 0, 2, "c")}})
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)

	for range 2 {
		if _, err := run.Next(context.Background()); !isA[*StreamGapError](err) || TextOf(baseOf(err).Partial) != "ab" {
			t.Fatalf("%v", err)
		}
	}
}
