package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"reflect"
	"strings"
	"time"

	midstream "github.com/midstream-dev/midstream/clients/go"
	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
)

// clientSide is through the library.
type clientSide struct{ client *midstream.Client }

func openClient(settings connecting) *clientSide {
	options := []midstream.Option{}
	if settings.tls != nil {
		options = append(options, midstream.WithTLS(tlsOf(settings.tls)))
	}
	if settings.apiKey != nil {
		options = append(options, midstream.WithAPIKey(*settings.apiKey))
	}
	client, err := midstream.NewClient(settings.target, options...)
	must(err, "making a client")
	return &clientSide{client}
}

func tlsOf(settings *tlsSettings) *tls.Config {
	content, err := os.ReadFile(settings.CAFile)
	must(err, "reading the authority")
	authorities := x509.NewCertPool()
	expect(authorities.AppendCertsFromPEM(content), "the authority cannot be read")
	return &tls.Config{RootCAs: authorities, ServerName: settings.ServerName, MinVersion: tls.VersionTLS12}
}

func (c *clientSide) start(request *midstreamv1.GenerateRequest, timeout time.Duration) stream {
	limits := request.GetLimits()
	options := &midstream.GenerateOptions{
		RunID:          request.GetRunId(),
		Tools:          request.GetTools(),
		Parameters:     request.GetParameters(),
		OnDetach:       request.GetOnDetach(),
		Limits:         midstream.Limits{Total: limits.GetTotal().AsDuration()},
		ConversationID: request.GetConversationId(),
		OnConflict:     request.GetOnConflict(),
		Labels:         request.GetLabels(),
	}
	ctx, cancel := context.WithCancel(context.Background())
	if timeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), timeout)
	}
	run, err := c.client.Generate(ctx, request.GetModel(), request.GetMessages(), options)
	must(err, "starting a run")
	return &clientStream{run: run, cancel: cancel}
}

func (c *clientSide) watch(request *midstreamv1.WatchRunRequest) stream {
	options := &midstream.WatchOptions{
		AfterSequence: request.GetAfterSequence(), FromSnapshot: request.GetFromSnapshot(), Claim: request.GetClaim(),
	}
	run, err := c.client.Watch(context.Background(), request.GetRunId(), options)
	must(err, "watching a run")
	made := &clientStream{run: run, cancel: func() {}}
	made.transcript.last = request.GetAfterSequence()
	made.isPartial = request.GetAfterSequence() > 0
	return made
}

func (c *clientSide) cancel(runID, reason string) (*midstreamv1.CancelResponse, error) {
	result, err := c.client.Cancel(context.Background(), runID, &midstream.CancelOptions{Reason: reason})
	if err != nil {
		return nil, tell(err)
	}
	return &midstreamv1.CancelResponse{Outcome: result.Outcome, Run: result.Run}, nil
}

func (c *clientSide) get(request *midstreamv1.GetRunRequest) (*midstreamv1.Run, error) {
	options := &midstream.GetOptions{View: request.GetMessageView()}
	if request.GetWaitUntilFinished() {
		options.Wait = 60 * time.Second
	}
	run, err := c.client.Get(context.Background(), request.GetRunId(), options)
	return run, tell(err)
}

func (c *clientSide) list(request *midstreamv1.ListRunsRequest) ([]*midstreamv1.Run, error) {
	options := &midstream.ListOptions{
		State: request.GetState(), Labels: request.GetLabels(), PageSize: request.GetPageSize(),
	}
	runs := []*midstreamv1.Run{}
	for run, err := range c.client.List(context.Background(), options) {
		if err != nil {
			return nil, tell(err)
		}
		runs = append(runs, run)
	}
	return runs, nil
}

func (c *clientSide) remove(runID string) error {
	return tell(c.client.Delete(context.Background(), runID))
}

func (c *clientSide) models() (*midstreamv1.ListModelsResponse, error) {
	models, err := c.client.Models(context.Background())
	return models, tell(err)
}

func (c *clientSide) close() { _ = c.client.Close() }

// clientStream reads delta by delta.
type clientStream struct {
	run        *midstream.RunStream
	cancel     context.CancelFunc
	transcript transcript
	texts      []string
	isPartial  bool
}

func (s *clientStream) step() error {
	delta, err := s.run.Next(context.Background())
	switch {
	case err == io.EOF:
		s.checkEnd()
		return err
	case err != nil:
		return tell(err)
	}
	// An entry without a delta (started, an unknown kind) is seen only as a gap between deltas, as are the parts of one
	// snapshot in a sequence that they share.
	isNext, isOfSnapshot := delta.FirstSequence > s.transcript.last, delta.Sequence == s.transcript.last
	expect(isNext || isOfSnapshot, "a delta %d..%d after %d", delta.FirstSequence, delta.Sequence, s.transcript.last)
	s.transcript.last = delta.Sequence
	s.transcript.delta(messageDelta(delta))
	s.texts = append(s.texts, delta.Text)
	expect(s.isPartial || s.run.Text() == textOf(s.transcript.message()), "the text is not the deltas, joined")
	return nil
}

func (s *clientStream) checkEnd() {
	final := s.run.Final()
	expect(final != nil, "the stream ended without a final run")
	equal(s.run.LastSequence(), final.GetLastSequence(), "the last sequence")
	if !s.isPartial {
		s.transcript.matches(final)
	}
}

func (s *clientStream) message() *midstreamv1.Message { return s.transcript.message() }

func (s *clientStream) started() *midstreamv1.RunStarted { return s.run.Started() }

func (s *clientStream) final() *midstreamv1.Run { return s.run.Final() }

// leave is by the idiom of the language: the context is cancelled. Close then only waits for it.
func (s *clientStream) leave() {
	s.cancel()
	_ = s.run.Close()
}

func messageDelta(delta midstream.Delta) *midstreamv1.MessageDelta {
	made := &midstreamv1.MessageDelta{PartIndex: delta.PartIndex, Offset: delta.Offset}
	switch {
	case delta.Text != "":
		made.Payload = &midstreamv1.MessageDelta_Text{Text: delta.Text}
	case delta.Reasoning != "":
		made.Payload = &midstreamv1.MessageDelta_Reasoning{Reasoning: delta.Reasoning}
	case delta.ToolCall != nil:
		made.Payload = &midstreamv1.MessageDelta_ToolCall{ToolCall: delta.ToolCall}
	}
	return made
}

// tell reads an error of the library, and expects that it is of the type that its reason has.
func tell(err error) error {
	if err == nil {
		return nil
	}
	base, isOurs := errors.AsType[*midstream.ClientError](err)
	expect(isOurs, "an error that is none of the library's: %v", err)
	fields := map[string]string{}
	for _, violation := range base.FieldViolations {
		fields[violation.Field] = violation.Description
	}
	name := reflect.TypeOf(err).Elem().Name()
	wanted := strings.ReplaceAll(base.Reason, "_", "")
	expect(strings.EqualFold(name, wanted), "the error of %s is a %s", base.Reason, name)
	code := base.Code
	if base.Reason == "DEADLINE_EXCEEDED" {
		code = codes.DeadlineExceeded // also where the library found it out before the status came
	}
	return &told{code: code, reason: base.Reason, fields: fields, original: err}
}
