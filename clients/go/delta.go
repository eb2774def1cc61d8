package midstream

import (
	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
)

// Delta is more of a message.
//
// At most one of Text, Reasoning, Refusal, ToolCall and Blob is set; Text is the answer's own text and may always be
// printed.
type Delta struct {
	// Sequence is the last of the run's sequences that it covers.
	Sequence uint64
	// FirstSequence is the first one; less than Sequence if the server merged entries for a reader that lagged.
	FirstSequence uint64
	// PartIndex is the index in the message's parts of the part that it appends to, or opens.
	PartIndex uint32
	// Offset is the number of UTF-8 bytes of that part's payload that came before.
	Offset uint64

	Text      string
	Reasoning string
	Refusal   string
	ToolCall  *ToolCallDelta
	Blob      *BlobDelta

	// PartEnd is the state in which it leaves the part, if it closes it; otherwise 0.
	PartEnd PartState
	// ProviderState replaces the part's.
	ProviderState *ProviderState
	// Annotations are added to the part's.
	Annotations []*Annotation
	// Logprobs are of the tokens in it.
	Logprobs []*TokenLogprob
}

// deltaOf is the delta as a value; false if there is nothing in it that this version knows.
func deltaOf(delta *midstreamv1.MessageDelta, firstSequence, sequence uint64) (Delta, bool) {
	isKnown := delta.GetPayload() != nil || delta.GetPartEnd() != 0 || delta.GetProviderState() != nil ||
		len(delta.GetAnnotations()) > 0
	if !isKnown {
		return Delta{}, false
	}
	return Delta{
		Sequence:      sequence,
		FirstSequence: firstSequence,
		PartIndex:     delta.GetPartIndex(),
		Offset:        delta.GetOffset(),
		Text:          delta.GetText(),
		Reasoning:     delta.GetReasoning(),
		Refusal:       delta.GetRefusal(),
		ToolCall:      delta.GetToolCall(),
		Blob:          delta.GetBlob(),
		PartEnd:       delta.GetPartEnd(),
		ProviderState: delta.GetProviderState(),
		Annotations:   delta.GetAnnotations(),
		Logprobs:      delta.GetLogprobs(),
	}, true
}
