package midstream

import (
	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
)

// The messages of the contract, under the names that it gives them.
type (
	Annotation           = midstreamv1.Annotation
	BlobDelta            = midstreamv1.BlobDelta
	DetachPolicy         = midstreamv1.DetachPolicy
	GenerationParameters = midstreamv1.GenerationParameters
	Message              = midstreamv1.Message
	Model                = midstreamv1.Model
	ModelList            = midstreamv1.ListModelsResponse
	Part                 = midstreamv1.Part
	ProviderState        = midstreamv1.ProviderState
	ResponseFormat       = midstreamv1.ResponseFormat
	Run                  = midstreamv1.Run
	RunProgress          = midstreamv1.RunProgress
	RunStarted           = midstreamv1.RunStarted
	TokenLogprob         = midstreamv1.TokenLogprob
	Tool                 = midstreamv1.Tool
	ToolCallDelta        = midstreamv1.ToolCallDelta
	ToolChoice           = midstreamv1.ToolChoice
	Usage                = midstreamv1.Usage
)

// The enums of the contract.
type (
	CancelOutcome      = midstreamv1.CancelResponse_Outcome
	CancelReason       = midstreamv1.CancelReason
	ConversationPolicy = midstreamv1.ConversationPolicy
	FinishReason       = midstreamv1.FinishReason
	MessageView        = midstreamv1.MessageView
	PartState          = midstreamv1.PartState
	Role               = midstreamv1.Role
	RunState           = midstreamv1.RunState
	UsageSource        = midstreamv1.UsageSource
)

// Where a run is in its life. The last three are its endings ([IsEnding]).
const (
	RunStateQueued    = midstreamv1.RunState_RUN_STATE_QUEUED
	RunStateRunning   = midstreamv1.RunState_RUN_STATE_RUNNING
	RunStateStopping  = midstreamv1.RunState_RUN_STATE_STOPPING
	RunStateCompleted = midstreamv1.RunState_RUN_STATE_COMPLETED
	RunStateCancelled = midstreamv1.RunState_RUN_STATE_CANCELLED
	RunStateFailed    = midstreamv1.RunState_RUN_STATE_FAILED
)

// Why the model stopped. Unspecified: it did not.
const (
	FinishReasonUnspecified   = midstreamv1.FinishReason_FINISH_REASON_UNSPECIFIED
	FinishReasonStop          = midstreamv1.FinishReason_FINISH_REASON_STOP
	FinishReasonLength        = midstreamv1.FinishReason_FINISH_REASON_LENGTH
	FinishReasonToolCalls     = midstreamv1.FinishReason_FINISH_REASON_TOOL_CALLS
	FinishReasonContentFilter = midstreamv1.FinishReason_FINISH_REASON_CONTENT_FILTER
	FinishReasonRefusal       = midstreamv1.FinishReason_FINISH_REASON_REFUSAL
	FinishReasonOther         = midstreamv1.FinishReason_FINISH_REASON_OTHER
)

// Who or what stopped a run. Unspecified: nobody.
const (
	CancelReasonUnspecified     = midstreamv1.CancelReason_CANCEL_REASON_UNSPECIFIED
	CancelReasonRequested       = midstreamv1.CancelReason_CANCEL_REASON_REQUESTED
	CancelReasonClientGone      = midstreamv1.CancelReason_CANCEL_REASON_CLIENT_GONE
	CancelReasonDeadline        = midstreamv1.CancelReason_CANCEL_REASON_DEADLINE
	CancelReasonTimeLimit       = midstreamv1.CancelReason_CANCEL_REASON_TIME_LIMIT
	CancelReasonBudget          = midstreamv1.CancelReason_CANCEL_REASON_BUDGET
	CancelReasonSuperseded      = midstreamv1.CancelReason_CANCEL_REASON_SUPERSEDED
	CancelReasonParentCancelled = midstreamv1.CancelReason_CANCEL_REASON_PARENT_CANCELLED
)

// What became of a cancel.
const (
	CancelOutcomeStopping        = midstreamv1.CancelResponse_OUTCOME_STOPPING
	CancelOutcomeCancelled       = midstreamv1.CancelResponse_OUTCOME_CANCELLED
	CancelOutcomeAlreadyFinished = midstreamv1.CancelResponse_OUTCOME_ALREADY_FINISHED
	CancelOutcomeRemembered      = midstreamv1.CancelResponse_OUTCOME_REMEMBERED
)

// Whether a part of a message is whole.
const (
	PartStateOpen      = midstreamv1.PartState_PART_STATE_OPEN
	PartStateComplete  = midstreamv1.PartState_PART_STATE_COMPLETE
	PartStateTruncated = midstreamv1.PartState_PART_STATE_TRUNCATED
	PartStateMalformed = midstreamv1.PartState_PART_STATE_MALFORMED
)

// Where a number of tokens comes from.
const (
	UsageSourceUpstreamFinal   = midstreamv1.UsageSource_USAGE_SOURCE_UPSTREAM_FINAL
	UsageSourceUpstreamRunning = midstreamv1.UsageSource_USAGE_SOURCE_UPSTREAM_RUNNING
	UsageSourceEstimated       = midstreamv1.UsageSource_USAGE_SOURCE_ESTIMATED
)

// What a run does when other runs of its conversation are live.
const (
	ConversationPolicyAllow     = midstreamv1.ConversationPolicy_CONVERSATION_POLICY_ALLOW
	ConversationPolicyReject    = midstreamv1.ConversationPolicy_CONVERSATION_POLICY_REJECT
	ConversationPolicySupersede = midstreamv1.ConversationPolicy_CONVERSATION_POLICY_SUPERSEDE
	ConversationPolicyQueue     = midstreamv1.ConversationPolicy_CONVERSATION_POLICY_QUEUE
)

// How a message is shown. Replay is safe to send back to any model.
const (
	MessageViewAsStreamed = midstreamv1.MessageView_MESSAGE_VIEW_AS_STREAMED
	MessageViewReplay     = midstreamv1.MessageView_MESSAGE_VIEW_REPLAY
)

// Who speaks.
const (
	RoleSystem    = midstreamv1.Role_ROLE_SYSTEM
	RoleDeveloper = midstreamv1.Role_ROLE_DEVELOPER
	RoleUser      = midstreamv1.Role_ROLE_USER
	RoleAssistant = midstreamv1.Role_ROLE_ASSISTANT
	RoleTool      = midstreamv1.Role_ROLE_TOOL
)

// IsEnding says whether a run in this state is over.
func IsEnding(state RunState) bool {
	return state == RunStateCompleted || state == RunStateCancelled || state == RunStateFailed
}

// TextOf joins the text parts of a message; nil has none.
func TextOf(message *Message) string {
	text := ""
	for _, part := range message.GetParts() {
		text += part.GetText().GetText()
	}
	return text
}
