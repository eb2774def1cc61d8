package midstream

import (
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Prompt is a conversation of one message of the user.
func Prompt(text string) []*Message {
	return []*Message{User(text)}
}

// System is a message of the application.
func System(text string) *Message {
	return textMessage(RoleSystem, text)
}

// User is a message of the person who asks.
func User(text string) *Message {
	return textMessage(RoleUser, text)
}

// Assistant is a message of the model. What a run has made is a Message already: run.Message().
func Assistant(text string) *Message {
	return textMessage(RoleAssistant, text)
}

// ToolResult is what a tool returned.
func ToolResult(toolCallID, text string) *Message {
	return toolMessage(toolCallID, text, false)
}

// ToolFailure is how a tool failed.
func ToolFailure(toolCallID, text string) *Message {
	return toolMessage(toolCallID, text, true)
}

// NewTool is something that the model may call. The schema is a JSON Schema object as text, passed on byte for byte; an
// empty one means no parameters.
func NewTool(name, description, parametersSchema string) *Tool {
	return &Tool{Name: name, Description: description, ParametersSchema: parametersSchema}
}

// ToolChoiceAuto lets the model call tools as it likes, the default.
func ToolChoiceAuto() *ToolChoice {
	return &ToolChoice{Mode: midstreamv1.ToolChoice_MODE_AUTO}
}

// ToolChoiceNone keeps the model from calling tools.
func ToolChoiceNone() *ToolChoice {
	return &ToolChoice{Mode: midstreamv1.ToolChoice_MODE_NONE}
}

// ToolChoiceRequired makes the model call at least one tool.
func ToolChoiceRequired() *ToolChoice {
	return &ToolChoice{Mode: midstreamv1.ToolChoice_MODE_REQUIRED}
}

// ToolChoiceOf makes the model call this tool.
func ToolChoiceOf(name string) *ToolChoice {
	return &ToolChoice{Mode: midstreamv1.ToolChoice_MODE_TOOL, ToolName: name}
}

// DetachCancel stops a run at once when nobody follows it any more.
func DetachCancel() *DetachPolicy {
	return &DetachPolicy{Action: midstreamv1.DetachPolicy_ACTION_CANCEL}
}

// DetachContinue lets a run that nobody follows any more go on to its end.
func DetachContinue() *DetachPolicy {
	return &DetachPolicy{Action: midstreamv1.DetachPolicy_ACTION_CONTINUE}
}

// DetachGrace stops a run that nobody follows any more after the grace, at most 10 minutes, unless somebody comes back.
func DetachGrace(grace time.Duration) *DetachPolicy {
	return &DetachPolicy{Action: midstreamv1.DetachPolicy_ACTION_GRACE, Grace: durationpb.New(grace)}
}

func textMessage(role Role, text string) *Message {
	return &Message{Role: role, Parts: []*Part{textPart(text)}}
}

func textPart(text string) *Part {
	return &Part{Part: &midstreamv1.Part_Text{Text: &midstreamv1.Text{Text: text}}}
}

func toolMessage(toolCallID, text string, isError bool) *Message {
	result := &midstreamv1.ToolResult{ToolCallId: toolCallID, Parts: []*Part{textPart(text)}, IsError: isError}
	return &Message{Role: RoleTool, Parts: []*Part{{Part: &midstreamv1.Part_ToolResult{ToolResult: result}}}}
}
