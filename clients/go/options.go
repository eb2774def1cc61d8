package midstream

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

const defaultGrace = 10 * time.Second

// GenerateOptions are what [Client.Generate] takes besides the model and the messages. A zero field is its default.
type GenerateOptions struct {
	// RunID is the run's id. Default: a new UUIDv7. A repeat with the same id and request follows the same run.
	RunID string
	// System is the text of a system message in front of the others.
	System string
	// Tools are what the model may call.
	Tools []*Tool
	// ToolChoice says whether it must.
	ToolChoice *ToolChoice
	// Parameters say how to sample.
	Parameters *GenerationParameters
	// OnDetach is what happens when nobody follows the run any more. Default: a grace of 10 s, so that a lost
	// connection can be resumed; closing the stream stops the run at once all the same.
	OnDetach *DetachPolicy
	// Limits are the caller's limits.
	Limits Limits
	// ConversationID is the conversation that the run belongs to.
	ConversationID string
	// OnConflict is what to do if other runs of the conversation are live.
	OnConflict ConversationPolicy
	// ContinueFrom is the id of a run whose partial message the model is to go on with.
	ContinueFrom string
	// ParentRunID is the run that caused this one.
	ParentRunID string
	// Labels are recorded with the run.
	Labels map[string]string
	// Retention is how long the run is kept after its end; nil is the server's default.
	Retention *time.Duration
	// ProviderOptions are added to the upstream's request as they are.
	ProviderOptions map[string]any
}

// Limits are a caller's limits of a run. A zero field is the server's default.
type Limits struct {
	// FirstToken is the longest time from sending the request upstream to the first output.
	FirstToken time.Duration
	// Idle is the longest time between two outputs.
	Idle time.Duration
	// Total is the longest time from the start to the end.
	Total time.Duration
	// Queue is the longest time in which the run waits for others of its conversation.
	Queue time.Duration
	// OutputTokens is the largest number of output tokens.
	OutputTokens uint64
}

// WatchOptions say where [Client.Watch] begins, and how.
type WatchOptions struct {
	// AfterSequence begins after this sequence; what came before is then missing in Text until the end.
	AfterSequence uint64
	// FromSnapshot begins with all so far, as one delta per part.
	FromSnapshot bool
	// Claim holds a claim: closing the stream stops the run. Without it closing never does.
	Claim bool
}

// CancelOptions say how [Client.Cancel] stops a run.
type CancelOptions struct {
	// Reason is for people who look later, at most 512 bytes.
	Reason string
	// Wait is how long to wait for the ending, at most 60 s. Default 5 s.
	Wait time.Duration
	// NoWait answers as soon as the stop is durable.
	NoWait bool
}

// GetOptions say what [Client.Get] returns, and when.
type GetOptions struct {
	// View is how the message is shown; MessageViewReplay is safe to send back to a model.
	View MessageView
	// Wait is how long to wait for the run's ending, as long as you like. Default: not at all.
	Wait time.Duration
}

// ListOptions say which runs [Client.List] returns.
type ListOptions struct {
	// State: only in this state.
	State RunState
	// ConversationID: only of this conversation.
	ConversationID string
	// ParentRunID: only children of this run.
	ParentRunID string
	// Labels: only with all of these labels.
	Labels map[string]string
	// PageSize is the number of runs per call, at most 500. All pages are read either way.
	PageSize int32
}

func generateRequest(
	model string, messages []*Message, options GenerateOptions,
) (*midstreamv1.GenerateRequest, error) {
	runID, err := runIDOf(options)
	if err != nil {
		return nil, err
	}
	request := &midstreamv1.GenerateRequest{
		RunId:          runID,
		Model:          model,
		Messages:       withSystem(options.System, messages),
		Tools:          options.Tools,
		ToolChoice:     options.ToolChoice,
		Parameters:     options.Parameters,
		OnDetach:       options.OnDetach,
		Limits:         limitsOf(options.Limits),
		ConversationId: options.ConversationID,
		OnConflict:     options.OnConflict,
		ContinueFrom:   options.ContinueFrom,
		ParentRunId:    options.ParentRunID,
		Labels:         options.Labels,
	}
	if request.OnDetach == nil {
		request.OnDetach = DetachGrace(defaultGrace)
	}
	if options.Retention != nil {
		request.Retention = durationpb.New(*options.Retention)
	}
	if options.ProviderOptions != nil {
		if request.ProviderOptions, err = structpb.NewStruct(options.ProviderOptions); err != nil {
			return nil, fmt.Errorf("midstream: provider options: %w", err)
		}
	}
	return request, nil
}

func runIDOf(options GenerateOptions) (string, error) {
	if options.RunID != "" {
		return options.RunID, nil
	}
	made, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("midstream: no run id could be made: %w", err)
	}
	return made.String(), nil
}

func withSystem(system string, messages []*Message) []*Message {
	if system == "" {
		return messages
	}
	return append([]*Message{System(system)}, messages...)
}

func limitsOf(limits Limits) *midstreamv1.RunLimits {
	if limits == (Limits{}) {
		return nil
	}
	made := &midstreamv1.RunLimits{
		FirstToken: durationOf(limits.FirstToken),
		Idle:       durationOf(limits.Idle),
		Total:      durationOf(limits.Total),
		Queue:      durationOf(limits.Queue),
	}
	if limits.OutputTokens != 0 {
		made.OutputTokens = &limits.OutputTokens
	}
	return made
}

func durationOf(span time.Duration) *durationpb.Duration {
	if span == 0 {
		return nil
	}
	return durationpb.New(span)
}

func watchRequest(runID string, options WatchOptions) (*midstreamv1.WatchRunRequest, error) {
	request := &midstreamv1.WatchRunRequest{RunId: runID, Claim: options.Claim}
	switch {
	case options.FromSnapshot && options.AfterSequence != 0:
		return nil, errors.New("midstream: a watch begins after a sequence or from a snapshot, not both")
	case options.FromSnapshot:
		request.Start = &midstreamv1.WatchRunRequest_FromSnapshot{FromSnapshot: true}
	case options.AfterSequence != 0:
		request.Start = &midstreamv1.WatchRunRequest_AfterSequence{AfterSequence: options.AfterSequence}
	}
	return request, nil
}

func cancelRequest(runID string, options CancelOptions) *midstreamv1.CancelRequest {
	request := &midstreamv1.CancelRequest{RunId: runID, Reason: options.Reason, Wait: durationOf(options.Wait)}
	if options.NoWait {
		request.Wait = durationpb.New(0)
	}
	return request
}

func listRequest(options ListOptions, pageToken string) *midstreamv1.ListRunsRequest {
	return &midstreamv1.ListRunsRequest{
		PageSize:       options.PageSize,
		PageToken:      pageToken,
		State:          options.State,
		ConversationId: options.ConversationID,
		ParentRunId:    options.ParentRunID,
		Labels:         options.Labels,
	}
}

// resumeTimeOf is how long a lost connection is worth resuming: the grace, where there is one.
func resumeTimeOf(request *midstreamv1.GenerateRequest) time.Duration {
	if request.GetOnDetach().GetAction() == midstreamv1.DetachPolicy_ACTION_GRACE {
		return request.GetOnDetach().GetGrace().AsDuration()
	}
	return defaultGrace
}
