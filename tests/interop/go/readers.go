package main

import (
	"io"
	"strings"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc/codes"
)

func duplicateStart(r *scenarioRun) {
	id, side := r.newID(), r.here()
	first := side.start(r.request(id, "words"), 0)
	r.openGates(id, "one")
	until(first, "one")
	second := r.here().start(r.request(id, "words"), 0)
	until(second, "one")
	r.openGates(id, "two", "three", "end")
	run := toEnd(first)
	isCompleted(run, "one two three")
	same(toEnd(second), run, "the final run of the second stream")
	same(toEnd(side.start(r.request(id, "words"), 0)), run, "the final run of the third stream")
	r.saw(id, 1)
}

func conflictingStart(r *scenarioRun) {
	id, side := r.newID(), r.here()
	run := toEnd(side.start(r.request(id, "hello"), 0))
	other := r.request(id, "hello")
	other.Messages = []*midstreamv1.Message{userMessage(id + "\nother")}
	stream := side.start(other, 0)
	failsReading(stream, codes.AlreadyExists, "RUN_ID_CONFLICT")
	stream.leave()
	same(r.get(side, id), run, "GetRun")
	r.saw(id, 1)
}

func watchAfterEnd(r *scenarioRun) {
	id, side := r.newID(), r.here()
	run := toEnd(side.start(r.request(id, "hello"), 0))
	last := run.GetLastSequence()
	same(toEnd(side.watch(&midstreamv1.WatchRunRequest{RunId: id})), run, "the final run of a watch from the start")
	stream := side.watch(after(id, last-1))
	same(toEnd(stream), run, "the final run of a watch of the end")
	equal(len(stream.message().GetParts()), 0, "the parts that came with the end")
	stream = side.watch(after(id, last))
	expect(stream.step() == io.EOF, "something came after the end")
	if r.isClient() {
		same(stream.final(), run, "the result of a watch after the end")
	} else {
		equal(len(stream.(*rawStream).events), 0, "the events after the end")
	}
	failsReading(side.watch(after(id, last+5)), codes.OutOfRange, "CURSOR_AHEAD")
}

func watchFromSnapshot(r *scenarioRun) {
	id := r.newID()
	stream := r.here().start(r.request(id, "words"), 0)
	r.openGates(id, "one", "two")
	until(stream, "one two")
	elsewhere := r.here()
	observer := elsewhere.watch(snapshotOf(id))
	until(observer, "one two")
	if raw, isRaw := observer.(*rawStream); isRaw {
		equal(len(raw.events), 1, "the events before the text")
		equal(textOf(raw.events[0].GetSnapshot().GetRun().GetMessage()), "one two", "the snapshot's text")
		expect(raw.events[0].GetSequence() >= 2, "the snapshot's sequence is %d", raw.events[0].GetSequence())
	}
	passerBy := elsewhere.watch(&midstreamv1.WatchRunRequest{RunId: id})
	until(passerBy, "one two")
	passerBy.leave()
	r.openGates(id, "three", "end")
	isCompleted(toEnd(observer), "one two three")
	isCompleted(toEnd(stream), "one two three")
}

func unknownRun(r *scenarioRun) {
	id, side := r.newID(), r.here()
	_, err := side.get(&midstreamv1.GetRunRequest{RunId: id})
	fails(err, codes.NotFound, "RUN_NOT_FOUND")
	failsReading(side.watch(&midstreamv1.WatchRunRequest{RunId: id}), codes.NotFound, "RUN_NOT_FOUND")
	fails(side.remove(id), codes.NotFound, "RUN_NOT_FOUND")
	request := r.request(id, "hello")
	request.Model = "nowhere/x"
	stream := side.start(request, 0)
	failsReading(stream, codes.NotFound, "MODEL_NOT_FOUND")
	stream.leave()
	_, err = side.get(&midstreamv1.GetRunRequest{RunId: id})
	fails(err, codes.NotFound, "RUN_NOT_FOUND")
}

func invalidArgument(r *scenarioRun) {
	request := r.request("not an id", "hello")
	request.Parameters = &midstreamv1.GenerationParameters{Temperature: new(9.0)}
	request.Labels = map[string]string{"k": strings.Repeat("x", 257)}
	failed := failsReading(r.here().start(request, 0), codes.InvalidArgument, "INVALID_REQUEST")
	equal(len(failed.fields), 3, "the number of fields")
	for _, field := range []string{"run_id", "parameters.temperature", `labels["k"]`} {
		expect(failed.fields[field] != "", "%s is not among the fields with a description: %v", field, failed.fields)
	}
}
