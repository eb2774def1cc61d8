package midstream

import (
	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
)

// maxParts is more parts than a message of 3 MiB can have; an index beyond it is not worth the memory.
const maxParts = 1 << 22

// payloadKind is what a delta adds to, by its name in the contract.
type payloadKind string

const (
	kindNone      payloadKind = ""
	kindText      payloadKind = "text"
	kindReasoning payloadKind = "reasoning"
	kindRefusal   payloadKind = "refusal"
	kindToolCall  payloadKind = "tool_call"
	kindBlob      payloadKind = "blob"
)

func kindOf(delta *midstreamv1.MessageDelta) payloadKind {
	switch delta.GetPayload().(type) {
	case *midstreamv1.MessageDelta_Text:
		return kindText
	case *midstreamv1.MessageDelta_Reasoning:
		return kindReasoning
	case *midstreamv1.MessageDelta_Refusal:
		return kindRefusal
	case *midstreamv1.MessageDelta_ToolCall:
		return kindToolCall
	case *midstreamv1.MessageDelta_Blob:
		return kindBlob
	default:
		return kindNone
	}
}

// payloadOf is the bytes that count for offsets.
func payloadOf(delta *midstreamv1.MessageDelta, kind payloadKind) string {
	switch kind {
	case kindText:
		return delta.GetText()
	case kindReasoning:
		return delta.GetReasoning()
	case kindRefusal:
		return delta.GetRefusal()
	case kindToolCall:
		return delta.GetToolCall().GetArguments()
	case kindBlob:
		return string(delta.GetBlob().GetData())
	default:
		return ""
	}
}

// wholePart is a delta that makes the whole part.
func wholePart(index uint32, part *Part) *midstreamv1.MessageDelta {
	delta := &midstreamv1.MessageDelta{PartIndex: index, ProviderState: part.GetProviderState()}
	switch kind := part.GetPart().(type) {
	case *midstreamv1.Part_Text:
		delta.Payload = &midstreamv1.MessageDelta_Text{Text: kind.Text.GetText()}
		delta.Annotations = kind.Text.GetAnnotations()
	case *midstreamv1.Part_Reasoning:
		delta.Payload = &midstreamv1.MessageDelta_Reasoning{Reasoning: kind.Reasoning.GetText()}
	case *midstreamv1.Part_Refusal:
		delta.Payload = &midstreamv1.MessageDelta_Refusal{Refusal: kind.Refusal.GetText()}
	case *midstreamv1.Part_ToolCall:
		call := kind.ToolCall
		delta.Payload = &midstreamv1.MessageDelta_ToolCall{
			ToolCall: &ToolCallDelta{Id: call.GetId(), Name: call.GetName(), Arguments: call.GetArguments()},
		}
	case *midstreamv1.Part_Blob:
		blob := kind.Blob
		delta.Payload = &midstreamv1.MessageDelta_Blob{Blob: &BlobDelta{
			MimeType: blob.GetMimeType(), Data: blob.GetData(), Url: blob.GetUrl(), FileId: blob.GetFileId(),
		}}
	}
	if part.GetState() != PartStateOpen {
		delta.PartEnd = part.GetState()
	}
	return delta
}
