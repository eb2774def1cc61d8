package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// world is the configuration that the harness gives.
type world struct {
	kind           string
	Target         string            `json:"target"`
	ProxyTarget    string            `json:"proxy_target"`
	ScriptedTarget string            `json:"scripted_target"`
	Control        string            `json:"control"`
	TLS            *tlsSettings      `json:"tls"`
	APIKey         *string           `json:"api_key"`
	Models         map[string]string `json:"models"`
	Scenarios      []string          `json:"scenarios"`
}

type tlsSettings struct {
	CAFile     string `json:"ca_file"`
	ServerName string `json:"server_name"`
}

// scenarioRun is one scenario under way.
type scenarioRun struct {
	*world
	name   string
	opened []side
}

// failure is what a check panics with.
type failure struct{ detail string }

func (f failure) Error() string { return f.detail }

func expect(isSo bool, format string, values ...any) {
	if !isSo {
		panic(failure{fmt.Sprintf(format, values...)})
	}
}

func must(err error, format string, values ...any) {
	expect(err == nil, "%s: %v", fmt.Sprintf(format, values...), err)
}

// equal expects that two values are the same.
func equal[T comparable](got, wanted T, what string) {
	expect(got == wanted, "%s: expected %#v, got %#v", what, wanted, got)
}

func (r *scenarioRun) isClient() bool { return r.kind == "client" }

// on opens a side that the scenario's end closes.
func (r *scenarioRun) on(target string) side {
	settings := connecting{target: target, tls: r.TLS, apiKey: r.APIKey}
	if target == r.ScriptedTarget {
		settings.tls = nil
	}
	var made side
	if r.isClient() {
		made = openClient(settings)
	} else {
		made = openRaw(settings)
	}
	r.opened = append(r.opened, made)
	return made
}

func (r *scenarioRun) here() side { return r.on(r.Target) }

func (r *scenarioRun) closeAll() {
	for _, each := range r.opened {
		each.close()
	}
}

func (r *scenarioRun) newID() string {
	digits := make([]byte, 4)
	_, _ = rand.Read(digits) // never fails
	return r.name + "-" + hex.EncodeToString(digits)
}

// request is as the words of PROTOCOL.md have it: GRACE of 10 s, and a text whose first line is the run id.
func (r *scenarioRun) request(runID, script string) *midstreamv1.GenerateRequest {
	return &midstreamv1.GenerateRequest{
		RunId:    runID,
		Model:    r.Models[script],
		Messages: []*midstreamv1.Message{userMessage(runID)},
		OnDetach: &midstreamv1.DetachPolicy{
			Action: midstreamv1.DetachPolicy_ACTION_GRACE, Grace: durationpb.New(10 * time.Second),
		},
	}
}

func userMessage(text string) *midstreamv1.Message {
	part := &midstreamv1.Part{Part: &midstreamv1.Part_Text{Text: &midstreamv1.Text{Text: text}}}
	return &midstreamv1.Message{Role: midstreamv1.Role_ROLE_USER, Parts: []*midstreamv1.Part{part}}
}

// rawCancels makes the request's policy CANCEL for the raw kind, whose only way to stop by leaving that is.
func (r *scenarioRun) rawCancels(request *midstreamv1.GenerateRequest) *midstreamv1.GenerateRequest {
	if !r.isClient() {
		request.OnDetach = &midstreamv1.DetachPolicy{Action: midstreamv1.DetachPolicy_ACTION_CANCEL}
	}
	return request
}

// seen is what control tells of the upstream.
type seen struct {
	Requests    int      `json:"requests"`
	Open        int      `json:"open"`
	Prompt      string   `json:"prompt"`
	TextSent    string   `json:"text_sent"`
	Connections int      `json:"connections"`
	Leaks       []string `json:"leaks"`
	Error       string   `json:"error"`
}

// tell asks control for something; pairs are the fields of the body.
func (r *scenarioRun) tell(path string, pairs ...string) seen {
	body := map[string]string{}
	for index := 0; index < len(pairs); index += 2 {
		body[pairs[index]] = pairs[index+1]
	}
	encoded, err := json.Marshal(body)
	must(err, "%s", path)
	response, err := http.Post(r.Control+path, "application/json", bytes.NewReader(encoded))
	must(err, "%s", path)
	defer response.Body.Close()
	answer := seen{}
	must(json.NewDecoder(response.Body).Decode(&answer), "%s answered no JSON", path)
	expect(response.StatusCode == http.StatusOK, "control: %s", answer.Error)
	return answer
}

func (r *scenarioRun) openGates(runID string, gates ...string) {
	for _, gate := range gates {
		r.tell("/upstream/open", "run_id", runID, "gate", gate)
	}
}

// saw expects how many requests of a run the upstream got.
func (r *scenarioRun) saw(runID string, requests int) {
	equal(r.tell("/upstream/see", "run_id", runID).Requests, requests, "requests that the upstream got")
}

// closed waits until the upstream is closed.
func (r *scenarioRun) closed(runID string, requests int) seen {
	answer := r.tell("/upstream/closed", "run_id", runID)
	equal(answer.Requests, requests, "requests that the upstream got")
	equal(answer.Open, 0, "requests that are open upstream")
	return answer
}
