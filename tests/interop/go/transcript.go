package main

import (
	"strings"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
)

// transcript is what came of a run, part by part; it expects that nothing is missing and nothing comes twice.
type transcript struct {
	last  uint64
	parts []*transcriptPart
}

type transcriptPart struct {
	kind    string
	payload strings.Builder
}

// sequence takes an entry's span of sequences.
func (t *transcript) sequence(first, last uint64) {
	if first == 0 {
		first = last
	}
	equal(first, t.last+1, "the sequence after the last one")
	t.last = last
}

func (t *transcript) delta(delta *midstreamv1.MessageDelta) {
	if index := int(delta.GetPartIndex()); index >= len(t.parts) {
		expect(index == len(t.parts), "part %d came before part %d", index, len(t.parts))
		t.parts = append(t.parts, &transcriptPart{})
	}
	part := t.parts[delta.GetPartIndex()]
	if delta.GetPayload() == nil {
		return
	}
	equal(delta.GetOffset(), uint64(part.payload.Len()), "the offset of a delta")
	switch payload := delta.GetPayload().(type) {
	case *midstreamv1.MessageDelta_Text:
		part.add("text", payload.Text)
	case *midstreamv1.MessageDelta_Reasoning:
		part.add("reasoning", payload.Reasoning)
	case *midstreamv1.MessageDelta_ToolCall:
		part.add("tool_call", payload.ToolCall.GetArguments())
	default:
		expect(false, "no scenario has a payload like %T", payload)
	}
}

func (p *transcriptPart) add(kind, payload string) {
	expect(p.kind == "" || p.kind == kind, "a part was %s and goes on as %s", p.kind, kind)
	p.kind = kind
	p.payload.WriteString(payload)
}

// message is what came, without states.
func (t *transcript) message() *midstreamv1.Message {
	message := &midstreamv1.Message{}
	for _, each := range t.parts {
		part, payload := &midstreamv1.Part{}, each.payload.String()
		switch each.kind {
		case "text":
			part.Part = &midstreamv1.Part_Text{Text: &midstreamv1.Text{Text: payload}}
		case "reasoning":
			part.Part = &midstreamv1.Part_Reasoning{Reasoning: &midstreamv1.Reasoning{Text: payload}}
		case "tool_call":
			part.Part = &midstreamv1.Part_ToolCall{ToolCall: &midstreamv1.ToolCall{Arguments: payload}}
		}
		message.Parts = append(message.Parts, part)
	}
	return message
}

// matches expects that the parts add up to those of the final run.
func (t *transcript) matches(run *midstreamv1.Run) {
	final := run.GetMessage().GetParts()
	equal(len(t.parts), len(final), "the number of parts received, and in the final run")
	for index, part := range t.message().GetParts() {
		equal(payloadOf(part), payloadOf(final[index]), "a part received, and in the final run")
	}
}

func payloadOf(part *midstreamv1.Part) string {
	switch kind := part.GetPart().(type) {
	case *midstreamv1.Part_Text:
		return "text:" + kind.Text.GetText()
	case *midstreamv1.Part_Reasoning:
		return "reasoning:" + kind.Reasoning.GetText()
	case *midstreamv1.Part_ToolCall:
		return "tool_call:" + kind.ToolCall.GetArguments()
	default:
		return ""
	}
}
