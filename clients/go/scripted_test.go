package midstream

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"
)

// scriptedServer is a real gRPC server that speaks the contract from a script, to show what any server may do.
type scriptedServer struct {
	midstreamv1.UnimplementedGenerationServiceServer

	address string
	turns   chan turn // what each stream answers, in order; after them every stream waits for its end
	happens chan string

	mutex      sync.Mutex
	requests   []proto.Message
	metadata   []metadata.MD
	peers      []string
	deadlines  map[int]time.Time // of the requests that had one
	run        *Run              // what GetRun and Cancel answer
	runError   error
	pages      []*midstreamv1.ListRunsResponse
	failFirst  int // unary calls that are refused as UNAVAILABLE first
	unaryCalls int
	asked      chan struct{} // if there is one, every GetRun says here that it came, and waits until it is cancelled
}

// turn is what a stream answers: events, the later ones once the gate is open, then an error, or nil for a good end; or
// it waits until the call is gone.
type turn struct {
	events []*midstreamv1.RunEvent
	gate   chan struct{}
	later  []*midstreamv1.RunEvent
	err    error
	waits  bool
}

func serve(t *testing.T, turns ...turn) *scriptedServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	made := &scriptedServer{
		address: listener.Addr().String(), turns: make(chan turn, len(turns)), happens: make(chan string, 10_000),
		deadlines: map[int]time.Time{},
	}
	for _, each := range turns {
		made.turns <- each
	}
	server := grpc.NewServer()
	midstreamv1.RegisterGenerationServiceServer(server, made)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return made
}

func (s *scriptedServer) client(t *testing.T, options ...Option) *Client {
	t.Helper()
	client, err := NewClient(s.address, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func (s *scriptedServer) Generate(
	request *midstreamv1.GenerateRequest, stream grpc.ServerStreamingServer[midstreamv1.RunEvent],
) error {
	s.note(stream.Context(), request)
	return s.answer(stream)
}

func (s *scriptedServer) WatchRun(
	request *midstreamv1.WatchRunRequest, stream grpc.ServerStreamingServer[midstreamv1.RunEvent],
) error {
	s.note(stream.Context(), request)
	return s.answer(stream)
}

func (s *scriptedServer) answer(stream grpc.ServerStreamingServer[midstreamv1.RunEvent]) error {
	next := turn{waits: true}
	select {
	case next = <-s.turns:
	default:
	}
	if err := send(stream, next.events); err != nil {
		return err
	}
	if next.gate != nil {
		<-next.gate
	}
	if err := send(stream, next.later); err != nil {
		return err
	}
	if next.waits {
		<-stream.Context().Done()
		s.happens <- "gone"
	}
	return next.err
}

func send(stream grpc.ServerStreamingServer[midstreamv1.RunEvent], events []*midstreamv1.RunEvent) error {
	for _, event := range events {
		if err := stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

func (s *scriptedServer) Cancel(
	ctx context.Context, request *midstreamv1.CancelRequest,
) (*midstreamv1.CancelResponse, error) {
	s.note(ctx, request)
	s.happens <- "cancel"
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return &midstreamv1.CancelResponse{Outcome: CancelOutcomeCancelled, Run: s.run}, s.refusal()
}

func (s *scriptedServer) GetRun(ctx context.Context, request *midstreamv1.GetRunRequest) (*Run, error) {
	s.note(ctx, request)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if asked := s.asked; asked != nil {
		s.mutex.Unlock()
		asked <- struct{}{}
		<-ctx.Done()
		s.mutex.Lock()
	}
	if err := s.refusal(); err != nil {
		return nil, err
	}
	return s.run, s.runError
}

func (s *scriptedServer) ListRuns(
	ctx context.Context, request *midstreamv1.ListRunsRequest,
) (*midstreamv1.ListRunsResponse, error) {
	s.note(ctx, request)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	page := s.pages[0]
	s.pages = s.pages[1:]
	return page, nil
}

// refusal is under the mutex.
func (s *scriptedServer) refusal() error {
	s.unaryCalls++
	if s.unaryCalls <= s.failFirst {
		return refusal(codes.Unavailable, "")
	}
	return nil
}

func (s *scriptedServer) note(ctx context.Context, request proto.Message) {
	received, _ := metadata.FromIncomingContext(ctx)
	from, _ := peer.FromContext(ctx)
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if deadline, hasDeadline := ctx.Deadline(); hasDeadline {
		s.deadlines[len(s.requests)] = deadline
	}
	s.requests = append(s.requests, request)
	s.metadata = append(s.metadata, received)
	s.peers = append(s.peers, from.Addr.String())
}

// received is the requests so far.
func (s *scriptedServer) received() []proto.Message {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return append([]proto.Message(nil), s.requests...)
}

// hadDeadline says whether a request came with a deadline.
func (s *scriptedServer) hadDeadline(index int) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	_, hasDeadline := s.deadlines[index]
	return hasDeadline
}

// cancels counts the cancels so far.
func (s *scriptedServer) cancels() int {
	count := 0
	for _, request := range s.received() {
		if _, isCancel := request.(*midstreamv1.CancelRequest); isCancel {
			count++
		}
	}
	return count
}

func refusal(code codes.Code, reason string, details ...protoadapt.MessageV1) error {
	made := status.New(code, "no")
	if reason != "" {
		details = append(details, &errdetails.ErrorInfo{
			Reason: reason, Domain: errorDomain, Metadata: map[string]string{"last_sequence": "2"},
		})
	}
	if len(details) > 0 {
		made, _ = made.WithDetails(details...)
	}
	return made.Err()
}
