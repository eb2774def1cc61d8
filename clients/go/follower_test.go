package midstream

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// A follower of a log without a seam gives exactly the log's text, however its entries were merged and repeated.
func TestEveryCutAndMergeOfALogGivesTheSameMessage(t *testing.T) {
	log := textLog("Grü", "ße, ", "世界", "! ", "👩‍👧", ".")
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		follower := followGenerate(&midstreamv1.GenerateRequest{RunId: "run"}, time.Minute)
		text := ""
		for follower.final == nil {
			for _, event := range replay(log, follower.lastSequence, random) {
				deltas, err := follower.accept(event)
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				for _, delta := range deltas {
					text += delta.Text
				}
			}
		}

		isWhole := text == "Grüße, 世界! 👩‍👧." && follower.text() == text
		if !isWhole || follower.lastSequence != uint64(len(log)) {
			t.Fatalf("seed %d: %q, %q, sequence %d", seed, text, follower.text(), follower.lastSequence)
		}
	}
}

// replay is a piece of a log that a server may send to a reader at this place: from anywhere before, merged anyhow, and
// lost anywhere.
func replay(log []*midstreamv1.RunEvent, last uint64, random *rand.Rand) []*midstreamv1.RunEvent {
	from := random.IntN(int(last) + 1)
	to := from + 1 + random.IntN(len(log)-from)
	events := []*midstreamv1.RunEvent{}
	for index := from; index < to; index++ {
		event := proto.CloneOf(log[index])
		for event.GetDelta() != nil && index+1 < to && log[index+1].GetDelta() != nil && random.IntN(2) == 0 {
			if event.FirstSequence == 0 {
				event.FirstSequence = event.Sequence
			}
			index++
			event.Sequence = log[index].Sequence
			text := event.GetDelta().GetText() + log[index].GetDelta().GetText()
			event.GetDelta().Payload = &midstreamv1.MessageDelta_Text{Text: text}
			event.GetDelta().PartEnd = log[index].GetDelta().GetPartEnd()
		}
		events = append(events, event)
	}
	return events
}

// A missing event, a missing part and a wrong offset are told as a gap, with what was received, and add nothing.
func TestAGapIsTold(t *testing.T) {
	cases := map[string]*midstreamv1.RunEvent{
		"sequence": deltaEvent(4, 0, 2, "c"),
		"offset":   deltaEvent(3, 0, 3, "c"),
		"overlap":  deltaEvent(3, 0, 1, "bc"),
		"part":     deltaEvent(3, 2, 0, "c"),
		"kind": {Sequence: 3, Event: &midstreamv1.RunEvent_Delta{Delta: &midstreamv1.MessageDelta{
			Offset: 2, Payload: &midstreamv1.MessageDelta_Refusal{Refusal: "c"},
		}}},
		"final":              finishedEvent(3, "ab and more"),
		"merged":             {FirstSequence: 2, Sequence: 3, Event: deltaEvent(3, 0, 3, "c").Event},
		"length":             finishedEvent(3, "ab"+"ab"),
		"inside a character": {FirstSequence: 2, Sequence: 3, Event: deltaEvent(3, 0, 1, "é").Event},
	}
	for name, event := range cases {
		t.Run(name, func(t *testing.T) {
			follower := followed(t, startedEvent(), deltaEvent(2, 0, 0, "ab"))

			_, err := follower.accept(event)

			gap, isGap := errors.AsType[*StreamGapError](err)
			if !isGap || gap.LastSequence != 2 || gap.RunID != "run" {
				t.Fatalf("the error is %v", err)
			}
			if follower.lastSequence != 2 || follower.parts.text() != "ab" {
				t.Fatalf("at %d, with %q", follower.lastSequence, follower.parts.text())
			}
		})
	}
}

// What is unknown is skipped: an event, a payload, a part; its sequence and its index count.
func TestUnknownKindsAreSkipped(t *testing.T) {
	unknown := []byte{0xa2, 0x1f, 3, 'n', 'e', 'w'}
	event := &midstreamv1.RunEvent{Sequence: 3}
	event.ProtoReflect().SetUnknown(unknown)
	opaque := &midstreamv1.MessageDelta{PartIndex: 1}
	opaque.ProtoReflect().SetUnknown(unknown)
	part := &Part{}
	part.ProtoReflect().SetUnknown(unknown)
	run := &Run{State: RunStateCompleted, LastSequence: 6, Message: &Message{Parts: []*Part{
		textPart("ab"), part, textPart("cd"),
	}}}

	follower := followed(t, startedEvent(), deltaEvent(2, 0, 0, "ab"), event,
		&midstreamv1.RunEvent{Sequence: 4, Event: &midstreamv1.RunEvent_Delta{Delta: opaque}},
		deltaEvent(5, 2, 0, "cd"),
		&midstreamv1.RunEvent{Sequence: 6, Event: &midstreamv1.RunEvent_Finished{
			Finished: &midstreamv1.RunFinished{Run: run},
		}})

	if follower.lastSequence != 6 || follower.text() != "abcd" || len(follower.message().GetParts()) != 3 {
		t.Fatalf("%d, %q, %v", follower.lastSequence, follower.text(), follower.message())
	}
}

// Interleaved parts of every kind add up, with names replaced, states, annotations and provider state.
func TestEveryKindOfPartAddsUp(t *testing.T) {
	annotation := &Annotation{Type: "url_citation", Url: "https://example.com"}
	deltas := []*midstreamv1.MessageDelta{
		{PartIndex: 0, Payload: &midstreamv1.MessageDelta_Reasoning{Reasoning: "hm"}},
		{PartIndex: 1, Payload: callPayload(&ToolCallDelta{Id: "1", Name: "a"})},
		{PartIndex: 2, Payload: blobPayload(&BlobDelta{MimeType: "image/png", Data: []byte{1}})},
		{PartIndex: 1, Payload: callPayload(&ToolCallDelta{Name: "b", Arguments: "{}"}), PartEnd: PartStateComplete},
		{PartIndex: 2, Offset: 1, Payload: blobPayload(&BlobDelta{Data: []byte{2}})},
		{PartIndex: 0, Offset: 2, PartEnd: PartStateComplete, ProviderState: &ProviderState{Dialect: "anthropic"}},
		{PartIndex: 3, Payload: &midstreamv1.MessageDelta_Text{Text: "ok"}, Annotations: []*Annotation{annotation}},
		{PartIndex: 4, Payload: &midstreamv1.MessageDelta_Refusal{Refusal: "no"}, PartEnd: PartStateTruncated},
	}
	parts := accumulator{}
	for _, delta := range deltas {
		if _, err := parts.fold(delta, false); err != nil {
			t.Fatal(err)
		}
	}

	wanted := &Message{Role: RoleAssistant, Parts: []*Part{
		{
			Part:  &midstreamv1.Part_Reasoning{Reasoning: &midstreamv1.Reasoning{Text: "hm"}},
			State: PartStateComplete, ProviderState: &ProviderState{Dialect: "anthropic"},
		},
		{
			Part:  &midstreamv1.Part_ToolCall{ToolCall: &midstreamv1.ToolCall{Id: "1", Name: "b", Arguments: "{}"}},
			State: PartStateComplete,
		},
		{
			Part: &midstreamv1.Part_Blob{Blob: &midstreamv1.Blob{
				MimeType: "image/png", Source: &midstreamv1.Blob_Data{Data: []byte{1, 2}},
			}},
			State: PartStateOpen,
		},
		{
			Part:  &midstreamv1.Part_Text{Text: &midstreamv1.Text{Text: "ok", Annotations: []*Annotation{annotation}}},
			State: PartStateOpen,
		},
		{Part: &midstreamv1.Part_Refusal{Refusal: &midstreamv1.Refusal{Text: "no"}}, State: PartStateTruncated},
	}}
	if !proto.Equal(parts.message(), wanted) {
		t.Fatalf("got %v", parts.message())
	}
	if err := parts.checkFinal(wanted); err != nil {
		t.Fatal(err)
	}
}

// A delta that only closes a part does not hide a gap in it, and an annotation that comes twice is kept once.
func TestStatesAndAnnotationsDoNotHideAGap(t *testing.T) {
	annotation := &Annotation{Type: "url_citation"}
	parts := accumulator{}
	closing := &midstreamv1.MessageDelta{PartEnd: PartStateComplete, Annotations: []*Annotation{annotation}}
	for range 2 {
		if _, err := parts.fold(closing, true); err != nil {
			t.Fatal(err)
		}
	}

	_, err := parts.fold(deltaEvent(2, 0, 3, "c").GetDelta(), false)

	if !isA[*StreamGapError](err) || len(parts.parts[0].annotations) != 1 {
		t.Fatalf("%v, %v", err, parts.parts[0].annotations)
	}
}

// A snapshot gives what it has beyond the deltas that came, as one delta per part; a second one nothing.
func TestASnapshotGivesOnlyWhatIsNew(t *testing.T) {
	follower := followed(t, startedEvent(), deltaEvent(2, 0, 0, "ab"))
	snapshot := &midstreamv1.RunEvent{Sequence: 5, Event: &midstreamv1.RunEvent_Snapshot{
		Snapshot: &midstreamv1.RunSnapshot{Run: &Run{Message: &Message{Parts: []*Part{textPart("abcd")}}}},
	}}

	deltas, err := follower.accept(snapshot)

	if err != nil || len(deltas) != 1 {
		t.Fatalf("%v, %v", deltas, err)
	}
	if deltas[0].Text != "cd" || deltas[0].Offset != 2 || deltas[0].FirstSequence != 3 {
		t.Fatalf("%v", deltas[0])
	}
	if again, err := follower.accept(snapshot); err != nil || len(again) != 0 || follower.lastSequence != 5 {
		t.Fatalf("%v, %v", again, err)
	}
}

// A watch of the end of a log begins at any offset, and is still held against the final message.
func TestAWatchOfTheEndBeginsMidway(t *testing.T) {
	start := &midstreamv1.WatchRunRequest_AfterSequence{AfterSequence: 5}
	follower := followWatch(&midstreamv1.WatchRunRequest{RunId: "run", Start: start}, time.Minute)

	_, err := follower.accept(deltaEvent(6, 1, 7, "end"))
	if err != nil || follower.text() != "end" {
		t.Fatalf("%q, %v", follower.text(), err)
	}

	final := finishedEvent(7, "first")
	final.GetFinished().Run.Message.Parts = append(final.GetFinished().Run.Message.Parts, textPart("1234567END"))
	if _, err = follower.accept(final); err == nil {
		t.Fatal("another ending was accepted")
	}
}

// What may pass by itself is tried again; what another call cannot help is not.
func TestOnlyWhatMayPassIsTriedAgain(t *testing.T) {
	cases := []struct {
		code       codes.Code
		reason     string
		isTriedToo bool
	}{
		{codes.Unavailable, "CONNECTION_LOST", true},
		{codes.Unavailable, "DRAINING", true},
		{codes.Unavailable, "STORE_UNAVAILABLE", true},
		{codes.Aborted, "SLOW_READER", true},
		{codes.Internal, "", true},
		{codes.Unknown, "", true},
		{codes.Canceled, "", true},
		{codes.Internal, "INTERNAL", false},
		{codes.Aborted, "", false},
		{codes.NotFound, "RUN_NOT_FOUND", false},
		{codes.OutOfRange, "CURSOR_AHEAD", false},
		{codes.ResourceExhausted, "TOO_MANY_RUNS", false},
		{codes.DeadlineExceeded, "DEADLINE_EXCEEDED", false},
	}
	for _, each := range cases {
		follower := followed(t, startedEvent())

		_, err := follower.lost(typed(&ClientError{Code: each.code, Reason: each.reason}))

		if (err == nil) != each.isTriedToo {
			t.Errorf("%s %s: %v", each.code, each.reason, err)
		}
	}
}

// Resuming goes on until the time for it is over, counted from the loss, and an event begins it anew.
func TestResumingEndsWithTheGrace(t *testing.T) {
	now := time.Unix(0, 0)
	follower := followed(t, startedEvent(), deltaEvent(2, 0, 0, "ab"))
	follower.resumeTime = 10 * time.Second
	follower.clock, follower.jitter = func() time.Time { return now }, func() float64 { return 1 }
	lost := func() (time.Duration, error) {
		return follower.lost(typed(&ClientError{Code: codes.Unavailable, Reason: "CONNECTION_LOST"}))
	}

	delays := []time.Duration{}
	for delay, err := lost(); err == nil; delay, err = lost() {
		delays = append(delays, delay)
		now = now.Add(delay + 100*time.Millisecond)
	}
	if fmt.Sprint(delays[:6]) != "[0s 100ms 200ms 400ms 800ms 1s]" || now.Sub(time.Unix(0, 0)) < 8*time.Second {
		t.Fatalf("%v until %s", delays, now.Sub(time.Unix(0, 0)))
	}

	_, err := lost()
	failed, isLost := errors.AsType[*ConnectionLost](err)
	if !isLost || failed.LastSequence != 2 || TextOf(failed.Partial) != "ab" {
		t.Fatalf("%v", err)
	}
	if _, err = follower.accept(deltaEvent(3, 0, 2, "c")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Minute)
	if delay, err := lost(); delay != 0 || err != nil {
		t.Fatalf("%s, %v", delay, err)
	}
}

// The server's own word for when to come back is obeyed.
func TestTheServersRetryDelayIsObeyed(t *testing.T) {
	follower := followed(t, startedEvent())

	delay, err := follower.lost(typed(&ClientError{
		Code: codes.Unavailable, Reason: "DRAINING", RetryAfter: 3 * time.Second,
	}))

	if delay != 3*time.Second || err != nil {
		t.Fatalf("%s, %v", delay, err)
	}
}

// The next call is the first one again until something came, then a watch from there that holds the claim.
func TestTheNextCallGoesOnWhereTheLastOneWas(t *testing.T) {
	request := &midstreamv1.GenerateRequest{RunId: "run", Model: "sim/x"}
	follower := followGenerate(request, time.Minute)

	if generate, watch := follower.nextRequest(); generate != request || watch != nil {
		t.Fatalf("%v, %v", generate, watch)
	}
	for _, event := range []*midstreamv1.RunEvent{startedEvent(), deltaEvent(2, 0, 0, "ab")} {
		if _, err := follower.accept(event); err != nil {
			t.Fatal(err)
		}
	}
	generate, watch := follower.nextRequest()
	if generate != nil || watch.GetAfterSequence() != 2 || !watch.GetClaim() || watch.GetRunId() != "run" {
		t.Fatalf("%v, %v", generate, watch)
	}
}

// Leaving stops a run that may exist, and no run that the server refused.
func TestOnlyARunThatMayExistIsStopped(t *testing.T) {
	fresh := func() *follower { return followGenerate(&midstreamv1.GenerateRequest{RunId: "run"}, time.Minute) }
	refused, lost, draining := fresh(), fresh(), fresh()
	refused.noteEnded(typed(&ClientError{Code: codes.AlreadyExists, Reason: "RUN_ID_CONFLICT"}))
	lost.noteEnded(typed(&ClientError{Code: codes.Unavailable, Reason: "CONNECTION_LOST"}))
	draining.noteEnded(typed(&ClientError{Code: codes.Unavailable, Reason: "DRAINING"}))
	watching := followWatch(&midstreamv1.WatchRunRequest{RunId: "run"}, time.Minute)

	if refused.mustStop(false) || draining.mustStop(false) || watching.mustStop(true) || fresh().mustStop(false) {
		t.Fatal("a run is stopped that was refused, never started, or only watched")
	}
	if !lost.mustStop(false) || !fresh().mustStop(true) || !followed(t, startedEvent()).mustStop(false) {
		t.Fatal("a run that may exist is not stopped")
	}
	if followed(t, startedEvent(), finishedEvent(2, "")).mustStop(true) {
		t.Fatal("a run that has ended is stopped")
	}
}

func callPayload(call *ToolCallDelta) *midstreamv1.MessageDelta_ToolCall {
	return &midstreamv1.MessageDelta_ToolCall{ToolCall: call}
}

func blobPayload(blob *BlobDelta) *midstreamv1.MessageDelta_Blob {
	return &midstreamv1.MessageDelta_Blob{Blob: blob}
}

func followed(t *testing.T, events ...*midstreamv1.RunEvent) *follower {
	t.Helper()
	made := followGenerate(&midstreamv1.GenerateRequest{RunId: "run"}, time.Minute)
	for _, event := range events {
		if _, err := made.accept(event); err != nil {
			t.Fatal(err)
		}
	}
	return made
}

func startedEvent() *midstreamv1.RunEvent {
	return &midstreamv1.RunEvent{Sequence: 1, Event: &midstreamv1.RunEvent_Started{
		Started: &midstreamv1.RunStarted{RunId: "run"},
	}}
}

func deltaEvent(sequence uint64, part uint32, offset uint64, text string) *midstreamv1.RunEvent {
	return &midstreamv1.RunEvent{Sequence: sequence, Event: &midstreamv1.RunEvent_Delta{
		Delta: &midstreamv1.MessageDelta{
			PartIndex: part, Offset: offset, Payload: &midstreamv1.MessageDelta_Text{Text: text},
		},
	}}
}

func finishedEvent(sequence uint64, text string) *midstreamv1.RunEvent {
	run := &Run{RunId: "run", State: RunStateCompleted, LastSequence: sequence}
	if text != "" {
		run.Message = &Message{Role: RoleAssistant, Parts: []*Part{textPart(text)}}
	}
	return &midstreamv1.RunEvent{Sequence: sequence, Event: &midstreamv1.RunEvent_Finished{
		Finished: &midstreamv1.RunFinished{Run: run},
	}}
}

// textLog is the whole log of a run that made one text part of these pieces.
func textLog(texts ...string) []*midstreamv1.RunEvent {
	log := []*midstreamv1.RunEvent{startedEvent()}
	for index, text := range texts {
		log = append(log, deltaEvent(uint64(index+2), 0, uint64(len(strings.Join(texts[:index], ""))), text))
	}
	return append(log, finishedEvent(uint64(len(log)+1), strings.Join(texts, "")))
}
