package midstream

import (
	"context"
	"io"
	"sync/atomic"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc"
)

// call is one call of a stream, and the goroutine that reads it: at most two events ahead, so that a refusal is known
// though nobody asked, and a turn that is given up loses nothing.
type call struct {
	cancel   context.CancelFunc
	arrivals chan arrival
	done     chan struct{} // closed when the goroutine has ended
	hasHeard atomic.Bool
	ending   atomic.Pointer[arrival]
}

// arrival is an event, or the error that the call ended with: io.EOF if it ended well.
type arrival struct {
	event *midstreamv1.RunEvent
	err   error
}

// startCall begins one of the two requests. It does not wait.
func startCall(
	ctx context.Context, stub midstreamv1.GenerationServiceClient,
	generate *midstreamv1.GenerateRequest, watch *midstreamv1.WatchRunRequest,
) *call {
	ctx, cancel := context.WithCancel(ctx)
	made := &call{cancel: cancel, arrivals: make(chan arrival, 1), done: make(chan struct{})}
	go made.run(ctx, func() (grpc.ServerStreamingClient[midstreamv1.RunEvent], error) {
		if generate != nil {
			return stub.Generate(ctx, generate)
		}
		return stub.WatchRun(ctx, watch)
	})
	return made
}

func (c *call) run(ctx context.Context, open func() (grpc.ServerStreamingClient[midstreamv1.RunEvent], error)) {
	defer close(c.done)
	stream, err := open()
	for err == nil {
		var event *midstreamv1.RunEvent
		if event, err = stream.Recv(); err == nil {
			c.hasHeard.Store(true)
			c.deliver(ctx, arrival{event: event})
		}
	}
	last := arrival{err: err}
	c.ending.Store(&last)
	c.deliver(ctx, last)
}

func (c *call) deliver(ctx context.Context, arrived arrival) {
	select {
	case c.arrivals <- arrived:
	case <-ctx.Done():
	}
}

// isInFlight says whether the server may be working on it: it has answered with an event, or not ended yet. Otherwise
// the error is why it ended; nil if it ended well.
func (c *call) isInFlight() (bool, error) {
	ending := c.ending.Load()
	switch {
	case c.hasHeard.Load() || ending == nil:
		return true, nil
	case ending.err == io.EOF:
		return false, nil
	default:
		return false, errorOfCall(ending.err)
	}
}
