package main

import (
	"context"
	"io"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// rawSide is generated stubs: one channel for streams, one for everything else.
type rawSide struct {
	streams, control *grpc.ClientConn
	metadata         metadata.MD
}

func openRaw(settings connecting) *rawSide {
	transport := insecure.NewCredentials()
	if settings.tls != nil {
		transport = credentials.NewTLS(tlsOf(settings.tls))
	}
	made := &rawSide{metadata: metadata.MD{}}
	if settings.apiKey != nil {
		made.metadata.Set("authorization", "Bearer "+*settings.apiKey)
	}
	for _, channel := range []**grpc.ClientConn{&made.streams, &made.control} {
		var err error
		*channel, err = grpc.NewClient(settings.target, grpc.WithTransportCredentials(transport))
		must(err, "making a channel")
	}
	return made
}

func (r *rawSide) stub() midstreamv1.GenerationServiceClient {
	return midstreamv1.NewGenerationServiceClient(r.control)
}

func (r *rawSide) context() context.Context {
	return metadata.NewOutgoingContext(context.Background(), r.metadata)
}

func (r *rawSide) start(request *midstreamv1.GenerateRequest, timeout time.Duration) stream {
	made := &rawStream{side: r, runID: request.GetRunId(), transcript: &transcript{}}
	made.reopen = func(ctx context.Context) (grpc.ServerStreamingClient[midstreamv1.RunEvent], error) {
		return midstreamv1.NewGenerationServiceClient(r.streams).Generate(ctx, request)
	}
	made.open(timeout)
	return made
}

func (r *rawSide) watch(request *midstreamv1.WatchRunRequest) stream {
	made := &rawStream{side: r, runID: request.GetRunId(), transcript: &transcript{last: request.GetAfterSequence()}}
	made.isPartial = request.GetAfterSequence() > 0
	made.reopen = func(ctx context.Context) (grpc.ServerStreamingClient[midstreamv1.RunEvent], error) {
		return midstreamv1.NewGenerationServiceClient(r.streams).WatchRun(ctx, request)
	}
	made.open(0)
	return made
}

func (r *rawSide) cancel(runID, reason string) (*midstreamv1.CancelResponse, error) {
	response, err := r.stub().Cancel(r.context(), &midstreamv1.CancelRequest{RunId: runID, Reason: reason})
	return response, tellStatus(err)
}

func (r *rawSide) get(request *midstreamv1.GetRunRequest) (*midstreamv1.Run, error) {
	run, err := r.stub().GetRun(r.context(), request)
	return run, tellStatus(err)
}

func (r *rawSide) list(request *midstreamv1.ListRunsRequest) ([]*midstreamv1.Run, error) {
	response, err := r.stub().ListRuns(r.context(), request)
	return response.GetRuns(), tellStatus(err)
}

func (r *rawSide) remove(runID string) error {
	_, err := r.stub().DeleteRun(r.context(), &midstreamv1.DeleteRunRequest{RunId: runID})
	return tellStatus(err)
}

func (r *rawSide) models() (*midstreamv1.ListModelsResponse, error) {
	response, err := r.stub().ListModels(r.context(), &midstreamv1.ListModelsRequest{})
	return response, tellStatus(err)
}

func (r *rawSide) close() {
	_ = r.streams.Close()
	_ = r.control.Close()
}

// rawStream reads event by event.
type rawStream struct {
	side       *rawSide
	runID      string
	reopen     func(context.Context) (grpc.ServerStreamingClient[midstreamv1.RunEvent], error)
	call       grpc.ServerStreamingClient[midstreamv1.RunEvent]
	openError  error
	stop       context.CancelFunc
	transcript *transcript
	events     []*midstreamv1.RunEvent
	isPartial  bool
	resumes    bool
}

const (
	resumePause = 100 * time.Millisecond
	resumeLimit = 10 * time.Second
)

func (s *rawStream) open(timeout time.Duration) {
	ctx, cancel := context.WithCancel(s.side.context())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(s.side.context(), timeout)
	}
	s.stop = cancel
	s.call, s.openError = s.reopen(ctx)
}

func (s *rawStream) step() error {
	giveUp := time.Now().Add(resumeLimit)
	for {
		event, err := s.receive()
		switch {
		case err == nil:
			s.take(event)
			return nil
		case err == io.EOF:
			if final := s.final(); final != nil && !s.isPartial {
				s.transcript.matches(final)
			}
			return io.EOF
		case !s.resumes || !isLoss(err) || time.Now().After(giveUp):
			return tellStatus(err)
		}
		time.Sleep(resumePause)
		s.resume()
	}
}

func (s *rawStream) receive() (*midstreamv1.RunEvent, error) {
	if s.openError != nil {
		return nil, s.openError
	}
	return s.call.Recv()
}

// resume is as PROTOCOL.md says it of raw stubs.
func (s *rawStream) resume() {
	s.stop()
	if s.transcript.last > 0 {
		start := &midstreamv1.WatchRunRequest_AfterSequence{AfterSequence: s.transcript.last}
		request := &midstreamv1.WatchRunRequest{RunId: s.runID, Start: start, Claim: true}
		s.reopen = func(ctx context.Context) (grpc.ServerStreamingClient[midstreamv1.RunEvent], error) {
			return midstreamv1.NewGenerationServiceClient(s.side.streams).WatchRun(ctx, request)
		}
	}
	s.open(0)
}

func (s *rawStream) take(event *midstreamv1.RunEvent) {
	expect(s.final() == nil, "an event came after RunFinished: %v", event)
	if event.GetProgress() != nil {
		return
	}
	s.events = append(s.events, event)
	if snapshot := event.GetSnapshot(); snapshot != nil {
		equal(len(s.events), 1, "the place of the snapshot among the events")
		s.transcript.last = event.GetSequence()
		for index, part := range snapshot.GetRun().GetMessage().GetParts() {
			text := &midstreamv1.MessageDelta_Text{Text: part.GetText().GetText()}
			s.transcript.delta(&midstreamv1.MessageDelta{PartIndex: uint32(index), Payload: text})
		}
		return
	}
	s.transcript.sequence(event.GetFirstSequence(), event.GetSequence())
	if event.GetStarted() != nil {
		equal(event.GetSequence(), 1, "the sequence of RunStarted")
	}
	if event.GetDelta() != nil && !s.isPartial {
		s.transcript.delta(event.GetDelta())
	}
	if finished := event.GetFinished(); finished != nil {
		equal(finished.GetRun().GetLastSequence(), event.GetSequence(), "last_sequence")
	}
}

func (s *rawStream) message() *midstreamv1.Message { return s.transcript.message() }

func (s *rawStream) started() *midstreamv1.RunStarted {
	if len(s.events) == 0 {
		return nil
	}
	return s.events[0].GetStarted()
}

func (s *rawStream) final() *midstreamv1.Run {
	if len(s.events) == 0 {
		return nil
	}
	return s.events[len(s.events)-1].GetFinished().GetRun()
}

func (s *rawStream) leave() { s.stop() }

func isLoss(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Unknown, codes.Internal, codes.Canceled:
		return true
	default:
		return false
	}
}

// tellStatus reads a status, and expects exactly one ErrorInfo of ours in it, if there is any.
func tellStatus(err error) error {
	if err == nil {
		return nil
	}
	made := &told{code: status.Code(err), fields: map[string]string{}, original: err}
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			equal(detail.GetDomain(), "midstream.v1", "the domain of an ErrorInfo")
			expect(made.reason == "", "there are two ErrorInfo: %v", err)
			made.reason = detail.GetReason()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				made.fields[violation.GetField()] = violation.GetDescription()
			}
		}
	}
	return made
}
