package midstream

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/protobuf/proto"
)

// accumulator folds deltas into a message, and checks that each begins where the one before it ended.
type accumulator struct {
	// beginsMidway is for a reader that asked for the end of a log only: the payload of a part then begins at the first
	// offset seen.
	beginsMidway bool
	parts        []*partSoFar
}

// partSoFar is a part as far as it came. An opaque one holds what this version cannot read.
type partSoFar struct {
	hasEnd      bool
	end         uint64 // bytes of the payload, once they are known
	kind        payloadKind
	payload     strings.Builder
	names       partNames
	annotations []*Annotation
	state       PartState
	provider    *ProviderState
	isOpaque    bool
}

type partNames struct{ id, name, mimeType, url, fileID string }

// text is the text parts, joined. Of one part it costs nothing.
func (a *accumulator) text() string {
	texts := make([]string, 0, len(a.parts))
	for _, part := range a.parts {
		if part.kind == kindText {
			texts = append(texts, part.payload.String())
		}
	}
	return strings.Join(texts, "")
}

// message is a copy of the message so far; parts that were not closed are OPEN.
func (a *accumulator) message() *Message {
	message := &Message{Role: RoleAssistant}
	for _, part := range a.parts {
		message.Parts = append(message.Parts, part.build())
	}
	return message
}

// fold adds a delta and returns what of it is new. With overlaps it may begin before the end of its part, and only what
// follows is taken. After a gap nothing was added.
func (a *accumulator) fold(delta *midstreamv1.MessageDelta, overlaps bool) (*midstreamv1.MessageDelta, error) {
	part, err := a.part(delta.GetPartIndex())
	if err != nil {
		return nil, err
	}
	kind := kindOf(delta)
	if kind == kindNone {
		part.isOpaque = part.isOpaque || len(delta.ProtoReflect().GetUnknown()) > 0
	} else {
		if delta, err = part.restOf(delta, kind, overlaps); err != nil {
			return nil, err
		}
		part.append(delta, kind)
	}
	part.addState(delta, overlaps)
	return delta, nil
}

// foldSnapshot adds what a snapshot has beyond the message so far, and returns it as deltas.
func (a *accumulator) foldSnapshot(message *Message) ([]*midstreamv1.MessageDelta, error) {
	folded := make([]*midstreamv1.MessageDelta, 0, len(message.GetParts()))
	for index, part := range message.GetParts() {
		delta, err := a.fold(wholePart(uint32(index), part), true)
		if err != nil {
			return nil, err
		}
		folded = append(folded, delta)
	}
	return folded, nil
}

// checkFinal compares with the message of a run that has ended.
func (a *accumulator) checkFinal(message *Message) error {
	final := message.GetParts()
	isShorter := a.beginsMidway && len(a.parts) < len(final)
	if len(a.parts) != len(final) && !isShorter {
		return gap("the final message has %d parts, %d were received", len(final), len(a.parts))
	}
	for index, part := range a.parts {
		if !part.isEndOf(final[index]) {
			return gap("part %d of the final message is not what was received", index)
		}
	}
	return nil
}

func (a *accumulator) part(index uint32) (*partSoFar, error) {
	if int(index) > len(a.parts) && !a.beginsMidway {
		return nil, gap("part %d begins before part %d", index, len(a.parts))
	}
	if index >= maxParts {
		return nil, gap("part %d is beyond any message", index)
	}
	for int(index) >= len(a.parts) {
		a.parts = append(a.parts, &partSoFar{hasEnd: !a.beginsMidway, state: PartStateOpen})
	}
	return a.parts[index], nil
}

func (p *partSoFar) restOf(
	delta *midstreamv1.MessageDelta, kind payloadKind, overlaps bool,
) (*midstreamv1.MessageDelta, error) {
	if p.kind != kindNone && p.kind != kind {
		return nil, gap("part %d was %s and goes on as %s", delta.GetPartIndex(), p.kind, kind)
	}
	if p.isOpaque || !p.hasEnd || delta.GetOffset() == p.end {
		return delta, nil
	}
	offset, size := delta.GetOffset(), uint64(len(payloadOf(delta, kind)))
	if !overlaps || offset >= p.end || p.end > offset+size {
		return nil, gap("part %d ends at byte %d and goes on at %d", delta.GetPartIndex(), p.end, offset)
	}
	return cut(delta, kind, p.end-offset)
}

func (p *partSoFar) append(delta *midstreamv1.MessageDelta, kind payloadKind) {
	payload := payloadOf(delta, kind)
	p.kind = kind
	p.payload.WriteString(payload)
	p.hasEnd, p.end = true, delta.GetOffset()+uint64(len(payload))
	call, blob := delta.GetToolCall(), delta.GetBlob()
	replace(&p.names.id, call.GetId())
	replace(&p.names.name, call.GetName())
	replace(&p.names.mimeType, blob.GetMimeType())
	replace(&p.names.url, blob.GetUrl())
	replace(&p.names.fileID, blob.GetFileId())
}

func (p *partSoFar) addState(delta *midstreamv1.MessageDelta, overlaps bool) {
	for _, annotation := range delta.GetAnnotations() {
		isKnown := overlaps && slices.ContainsFunc(p.annotations, func(known *Annotation) bool {
			return proto.Equal(known, annotation)
		})
		if !isKnown {
			p.annotations = append(p.annotations, annotation)
		}
	}
	if delta.GetProviderState() != nil {
		p.provider = delta.GetProviderState()
	}
	if delta.GetPartEnd() != 0 {
		p.state = delta.GetPartEnd()
	}
}

func (p *partSoFar) build() *Part {
	part := &Part{State: p.state}
	if p.provider != nil {
		part.ProviderState = proto.CloneOf(p.provider)
	}
	payload := p.payload.String()
	switch p.kind {
	case kindText:
		text := &midstreamv1.Text{Text: payload}
		for _, annotation := range p.annotations {
			text.Annotations = append(text.Annotations, proto.CloneOf(annotation))
		}
		part.Part = &midstreamv1.Part_Text{Text: text}
	case kindReasoning:
		part.Part = &midstreamv1.Part_Reasoning{Reasoning: &midstreamv1.Reasoning{Text: payload}}
	case kindRefusal:
		part.Part = &midstreamv1.Part_Refusal{Refusal: &midstreamv1.Refusal{Text: payload}}
	case kindToolCall:
		call := &midstreamv1.ToolCall{Id: p.names.id, Name: p.names.name, Arguments: payload}
		part.Part = &midstreamv1.Part_ToolCall{ToolCall: call}
	case kindBlob:
		part.Part = &midstreamv1.Part_Blob{Blob: p.buildBlob([]byte(payload))}
	}
	return part
}

func (p *partSoFar) buildBlob(data []byte) *midstreamv1.Blob {
	blob := &midstreamv1.Blob{MimeType: p.names.mimeType}
	switch {
	case p.names.url != "":
		blob.Source = &midstreamv1.Blob_Url{Url: p.names.url}
	case p.names.fileID != "":
		blob.Source = &midstreamv1.Blob_FileId{FileId: p.names.fileID}
	case len(data) > 0:
		blob.Source = &midstreamv1.Blob_Data{Data: data}
	}
	return blob
}

// isEndOf says whether the final part ends with this payload, and is as long.
func (p *partSoFar) isEndOf(final *Part) bool {
	whole := wholePart(0, final)
	kind := kindOf(whole)
	if p.isOpaque || !p.hasEnd || kind == kindNone {
		return true
	}
	payload := payloadOf(whole, kind)
	isSameKind := p.kind == kindNone || p.kind == kind
	return isSameKind && p.end == uint64(len(payload)) && strings.HasSuffix(payload, p.payload.String())
}

func replace(name *string, value string) {
	if value != "" {
		*name = value
	}
}

// cut is a copy without the first bytes of its payload.
func cut(delta *midstreamv1.MessageDelta, kind payloadKind, count uint64) (*midstreamv1.MessageDelta, error) {
	rest := proto.CloneOf(delta)
	rest.Offset += count
	payload := payloadOf(delta, kind)[count:]
	if kind != kindBlob && len(payload) > 0 && !utf8.RuneStart(payload[0]) {
		return nil, gap("part %d goes on inside a character", delta.GetPartIndex())
	}
	switch kind {
	case kindText:
		rest.Payload = &midstreamv1.MessageDelta_Text{Text: payload}
	case kindReasoning:
		rest.Payload = &midstreamv1.MessageDelta_Reasoning{Reasoning: payload}
	case kindRefusal:
		rest.Payload = &midstreamv1.MessageDelta_Refusal{Refusal: payload}
	case kindToolCall:
		rest.GetToolCall().Arguments = payload
	case kindBlob:
		rest.GetBlob().Data = []byte(payload)
	}
	return rest, nil
}

func gap(format string, values ...any) error {
	return newError("STREAM_GAP", fmt.Sprintf(format, values...), nil)
}
