package midstream

import (
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
)

var begun = []*midstreamv1.RunEvent{startedEvent(), deltaEvent(2, 0, 0, "ab")}

// A whole run gives its deltas, its end and its result, and leaves nothing to stop.
func TestAWholeRunIsRead(t *testing.T) {
	server := serve(t, turn{events: textLog("Hello", ", world")})
	run := generate(t, server.client(t), context.Background())

	texts := []string{}
	for delta, err := range run.Deltas() {
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, delta.Text)
	}

	if got := strings.Join(texts, "|"); got != "Hello|, world" || run.Text() != "Hello, world" {
		t.Fatalf("%q, %q", got, run.Text())
	}
	if final, err := run.Result(context.Background()); err != nil || final.GetState() != RunStateCompleted {
		t.Fatalf("%v, %v", final, err)
	}
	if err := run.Close(); err != nil || server.cancels() != 0 {
		t.Fatalf("%v, %d cancels", err, server.cancels())
	}
}

// Closing midstream sends Cancel on a connection of its own, without a wait, and only then ends the call.
func TestClosingMidstreamStopsTheRun(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)

	if err := run.Close(); err != nil {
		t.Fatal(err)
	}

	if first, second := <-server.happens, <-server.happens; first != "cancel" || second != "gone" {
		t.Fatalf("first %s, then %s", first, second)
	}
	request := server.received()[1].(*midstreamv1.CancelRequest)
	if request.GetRunId() != run.RunID() || request.GetWait() == nil || request.GetWait().AsDuration() != 0 {
		t.Fatalf("the request is %v", request)
	}
	if server.peers[0] == server.peers[1] {
		t.Fatal("the stop went over the connection of the stream")
	}
	if _, err := run.Next(context.Background()); !isA[*StreamClosed](err) || run.Text() != "ab" {
		t.Fatalf("%v, %q", err, run.Text())
	}
}

// A context that is cancelled stops the run though nobody reads, and whoever reads is told why.
func TestCancellingTheContextStopsTheRun(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	ctx, cancel := context.WithCancel(context.Background())
	run := generate(t, server.client(t), ctx)
	readDelta(t, run)

	cancel()

	if first, second := <-server.happens, <-server.happens; first != "cancel" || second != "gone" {
		t.Fatalf("first %s, then %s", first, second)
	}
	_, err := run.Next(context.Background())
	if !errors.Is(err, context.Canceled) || !isA[*StreamClosed](err) || baseOf(err).LastSequence != 2 {
		t.Fatalf("%v", err)
	}
	if err := run.Close(); err != nil || server.cancels() != 1 {
		t.Fatalf("%v, %d cancels", err, server.cancels())
	}
}

// The context's deadline is that of the call, ends the stream as DeadlineExceeded with the partial, and stops the run.
func TestTheContextsDeadlineEndsTheStream(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	run := generate(t, server.client(t), ctx)

	_, err := run.Result(context.Background())

	if !server.hadDeadline(0) {
		t.Fatal("the server was not told of the deadline")
	}
	isDeadline := isA[*DeadlineExceeded](err) && errors.Is(err, context.DeadlineExceeded)
	if !isDeadline || TextOf(baseOf(err).Partial) != "ab" {
		t.Fatalf("%v", err)
	}
	if err := run.Close(); err != nil || server.cancels() != 1 {
		t.Fatalf("%v, %d cancels", err, server.cancels())
	}
}

// A run that the server refused is not stopped by closing, though the refusal was never read.
func TestARefusedRunIsNotStopped(t *testing.T) {
	server := serve(t, turn{err: refusal(codes.AlreadyExists, "RUN_ID_CONFLICT")})
	run := generate(t, server.client(t), context.Background())
	<-run.call.done

	if err := run.Close(); err != nil || server.cancels() != 0 {
		t.Fatalf("%v, %d cancels", err, server.cancels())
	}
}

// A run whose call broke before the first event may exist, so closing stops it.
func TestARunThatMayHaveStartedIsStopped(t *testing.T) {
	server := serve(t, turn{err: refusal(codes.Internal, "")})
	run := generate(t, server.client(t), context.Background())
	<-run.call.done

	if err := run.Close(); err != nil || server.cancels() != 1 {
		t.Fatalf("%v, %d cancels", err, server.cancels())
	}
}

// Leaving a watch stops the run only if it holds a claim.
func TestOnlyAWatchWithAClaimStopsTheRun(t *testing.T) {
	for _, claim := range []bool{false, true} {
		server := serve(t, turn{events: begun, waits: true})
		run, err := server.client(t).Watch(context.Background(), "run", &WatchOptions{Claim: claim})
		if err != nil {
			t.Fatal(err)
		}
		readDelta(t, run)

		if err := run.Close(); err != nil || (server.cancels() == 1) != claim {
			t.Fatalf("claim %t: %v, %d cancels", claim, err, server.cancels())
		}
	}
}

// A turn whose own context ends loses nothing: the next one goes on where it was.
func TestATurnThatIsGivenUpLosesNothing(t *testing.T) {
	log := textLog("ab", "cd")
	gate := make(chan struct{})
	server := serve(t, turn{events: log[:2], gate: gate, later: log[2:]})
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)
	turnContext, cancel := context.WithCancel(context.Background())
	cancel()

	_, err := run.Next(turnContext)

	close(gate)
	if err != context.Canceled {
		t.Fatalf("%v", err)
	}
	if delta, err := run.Next(context.Background()); err != nil || delta.Text != "cd" || len(server.received()) != 1 {
		t.Fatalf("%v, %v", delta, err)
	}
}

// The result of a stream that was left is asked from the server.
func TestTheResultAfterLeavingIsTheServers(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	server.run = &Run{State: RunStateCancelled, Message: &Message{Parts: []*Part{textPart("ab")}}}
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)
	if err := run.Close(); err != nil {
		t.Fatal(err)
	}

	kept, err := run.Result(context.Background())

	if err != nil || kept.GetState() != RunStateCancelled || run.Text() != "ab" || run.Final() != kept {
		t.Fatalf("%v, %v", kept, err)
	}
}

// A run that Cancel has stopped is not stopped again by closing.
func TestARunThatWasStoppedIsNotStoppedAgain(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	server.run = &Run{State: RunStateCancelled, Message: &Message{Parts: []*Part{textPart("ab")}}}
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)

	partial, err := run.Cancel(context.Background(), &CancelOptions{Reason: "enough"})

	if err != nil || TextOf(partial.GetMessage()) != "ab" {
		t.Fatalf("%v, %v", partial, err)
	}
	if err := run.Close(); err != nil || server.cancels() != 1 {
		t.Fatalf("%v, %d cancels", err, server.cancels())
	}
}

// Closing the client ends its streams, without stopping their runs.
func TestClosingTheClientEndsItsStreams(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	client := server.client(t)
	run := generate(t, client, context.Background())
	readDelta(t, run)

	if err := client.Close(); err != nil {
		t.Fatal(err)
	}

	if _, err := run.Next(context.Background()); !isA[*StreamClosed](err) {
		t.Fatalf("%v", err)
	}
	if _, err := client.Get(context.Background(), "run", nil); !isA[*StreamClosed](err) {
		t.Fatalf("%v", err)
	}
	if server.cancels() != 0 {
		t.Fatal("the run was stopped")
	}
}

// Closing says so if the stop did not reach the server.
func TestAStopThatDoesNotArriveIsTold(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	server.failFirst = 100
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)

	if err := run.Close(); !isA[*ClientError](err) || !strings.Contains(err.Error(), run.RunID()) {
		t.Fatalf("%v", err)
	}
}

// Reading, asking and closing from several goroutines is safe, and closing ends the reading.
func TestAnyGoroutineMayClose(t *testing.T) {
	server := serve(t, turn{events: begun, waits: true})
	server.run = &Run{State: RunStateCancelled}
	run := generate(t, server.client(t), context.Background())
	readDelta(t, run)
	group := sync.WaitGroup{}
	ended := make(chan error, 1)
	group.Go(func() {
		_, err := run.Result(context.Background())
		ended <- err
	})

	for range 4 {
		group.Go(func() {
			_, _, _ = run.Text(), run.Message(), run.LastSequence()
			_ = run.Close()
		})
	}
	group.Wait()

	if err := <-ended; err != nil && !isA[*StreamClosed](err) { // nil: it asked only after the closing
		t.Fatalf("%v", err)
	}
	if server.cancels() != 1 {
		t.Fatalf("%d cancels", server.cancels())
	}
}

// Runs that were closed midstream, cancelled, or read to the end leave no goroutine behind.
func TestRunsLeaveNoGoroutineBehind(t *testing.T) {
	const runs = 1000
	turns := []turn{}
	for index := range runs + 10 {
		turns = append(turns, turn{events: begun, waits: true})
		if index%10 == 9 {
			turns[index] = turn{events: textLog("ab")}
		}
	}
	server := serve(t, turns...)
	client := server.client(t)
	leaveRuns(t, client, 10)
	before := runtime.NumGoroutine()

	leaveRuns(t, client, runs)

	deadline := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before+4 {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("%d goroutines, %d before\n%s", runtime.NumGoroutine(), before, stacks)
		}
		time.Sleep(time.Millisecond) // nothing tells of the end of a goroutine
	}
}

func leaveRuns(t *testing.T, client *Client, count int) {
	t.Helper()
	for index := range count {
		ctx, cancel := context.WithCancel(context.Background())
		run := generate(t, client, ctx)
		readDelta(t, run)
		if index%2 == 0 {
			cancel()
		}
		if err := run.Close(); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
}

func generate(t *testing.T, client *Client, ctx context.Context) *RunStream {
	t.Helper()
	run, err := client.Generate(ctx, "sim/words", Prompt("hi"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = run.Close() })
	return run
}

func readDelta(t *testing.T, run *RunStream) {
	t.Helper()
	if delta, err := run.Next(context.Background()); err != nil || delta.Text != "ab" {
		t.Fatalf("%v, %v", delta, err)
	}
}

func isA[Kind error](err error) bool {
	_, is := errors.AsType[Kind](err)
	return is && err != io.EOF
}
