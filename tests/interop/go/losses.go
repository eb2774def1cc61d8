package main

import (
	"runtime"
	"sync"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// awaySeconds is how long a server that drains may be away: longer than a client tries by default.
const awaySeconds = 30

func resumeAtEveryEvent(r *scenarioRun) {
	const letters = "abcdéfgh"
	id := r.newID()
	stream := r.on(r.ProxyTarget).start(r.request(id, "letters"), 0)
	if raw, isRaw := stream.(*rawStream); isRaw {
		raw.resumes = true
	}
	r.tell("/upstream/reached", "run_id", id, "gate", "1")
	cuts, text := r.tell("/proxy/cut").Connections, ""
	for index, letter := range []rune(letters) {
		text += string(letter)
		r.openGates(id, string(rune('1'+index)))
		until(stream, text)
		cuts += r.tell("/proxy/cut").Connections
	}
	r.openGates(id, "end")
	r.tell("/proxy/cut")
	run := toEnd(stream)
	isCompleted(run, letters)
	onePart(run, completePart)
	r.saw(id, 1)
	expect(!r.isClient() || cuts >= 9, "only %d connections were cut", cuts)
}

func serverRestartMidstream(r *scenarioRun) {
	id, side := r.newID(), r.here()
	stream := side.start(r.request(id, "words"), 0)
	if raw, isRaw := stream.(*rawStream); isRaw {
		raw.resumes = true
	}
	r.openGates(id, "one")
	until(stream, "one")
	r.tell("/server/kill")
	run := toEnd(stream)
	equal(run.GetState(), midstreamv1.RunState_RUN_STATE_FAILED, "the state")
	equal(textOf(run.GetMessage()), "one", "the text")
	onePart(run, truncatedPart)
	info := &errdetails.ErrorInfo{}
	must(run.GetError().GetDetails()[0].UnmarshalTo(info), "the detail of the error")
	equal(info.GetReason(), "OWNER_LOST", "the reason")
	same(r.get(side, id), run, "GetRun")
	r.closed(id, 1)
}

func drain(r *scenarioRun) {
	id, refused, side := r.newID(), r.newID(), r.here()
	stream := side.start(r.request(id, "words"), 0)
	r.openGates(id, "one")
	until(stream, "one")
	elsewhere := r.here()
	r.tell("/server/drain")
	var later readBeside
	if r.isClient() {
		request := r.request(refused, "hello")
		request.OnDetach.Grace = durationpb.New(awaySeconds * time.Second)
		later.stream = elsewhere.start(request, 0)
		later.begin()
	} else {
		failsReading(side.start(r.request(refused, "hello"), 0), codes.Unavailable, "DRAINING")
	}
	run := r.get(elsewhere, id)
	equal(run.GetState(), midstreamv1.RunState_RUN_STATE_RUNNING, "the state while it drains")
	equal(textOf(run.GetMessage()), "one", "the text while it drains")
	r.openGates(id, "two", "three", "end")
	run = toEnd(stream)
	isCompleted(run, "one two three")
	r.tell("/server/start")
	if r.isClient() {
		isCompleted(later.end(), hello)
	} else {
		isCompleted(r.persistently(refused), hello)
	}
	same(r.get(r.here(), id), run, "GetRun after the restart")
	r.saw(refused, 1)
}

// readBeside is a stream that is read beside.
type readBeside struct {
	stream stream
	ended  chan any
}

func (s *readBeside) begin() {
	s.ended = make(chan any, 1)
	go func() {
		defer func() {
			if recovered := recover(); recovered != nil {
				s.ended <- recovered
			}
		}()
		s.ended <- toEnd(s.stream)
	}()
}

func (s *readBeside) end() *midstreamv1.Run {
	switch ended := (<-s.ended).(type) {
	case *midstreamv1.Run:
		return ended
	default:
		panic(ended)
	}
}

// persistently starts a run again while the server cannot be reached.
func (r *scenarioRun) persistently(id string) *midstreamv1.Run {
	for {
		stream := r.here().start(r.request(id, "hello"), 0)
		err := stream.step()
		if err == nil {
			return toEnd(stream)
		}
		expect(err.(*told).code == codes.Unavailable, "starting again: %v", err)
		time.Sleep(resumePause)
	}
}

const (
	warmUp    = 50
	leakRuns  = 1000
	atOnce    = 16
	leakSlack = 4
)

func leak(r *scenarioRun) {
	side := r.here()
	r.leaveMany(side, warmUp)
	r.tell("/leaks/mark")
	before := runtime.NumGoroutine()
	last := r.leaveMany(side, leakRuns)
	leaks := r.tell("/leaks/check").Leaks
	expect(len(leaks) == 0, "leaks: %v", leaks)
	deadline := time.Now().Add(10 * time.Second)
	for ; runtime.NumGoroutine() > before+leakSlack; time.Sleep(resumePause) {
		expect(time.Now().Before(deadline), "%d goroutines, %d before", runtime.NumGoroutine(), before)
	}
	isCancelled(r.getEnded(side, last), r.getEnded(side, last).GetCancelReason(), "1 2 3")
}

// leaveMany starts, reads and leaves runs, some at a time, and returns the id of one of the last.
func (r *scenarioRun) leaveMany(side side, count int) string {
	ids := make(chan string, count)
	for range count {
		ids <- r.newID()
	}
	close(ids)
	workers, failed, last := sync.WaitGroup{}, make(chan any, atOnce), ""
	mutex := sync.Mutex{}
	for range atOnce {
		workers.Go(func() {
			defer func() {
				if recovered := recover(); recovered != nil {
					failed <- recovered
				}
			}()
			for id := range ids {
				stream := side.start(r.rawCancels(r.request(id, "stall")), 0)
				until(stream, "1 2 3")
				stream.leave()
				mutex.Lock()
				last = id
				mutex.Unlock()
			}
		})
	}
	workers.Wait()
	if len(failed) > 0 {
		panic(<-failed)
	}
	return last
}
