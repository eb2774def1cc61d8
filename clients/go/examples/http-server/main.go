// Passes a stream on to HTTP callers. One who hangs up stops the run, because the run has the request's context; what
// it made can still be read by its id.
//
//	MIDSTREAM_TARGET=127.0.0.1:50051 MIDSTREAM_MODEL=local/smollm2 PORT=8080 go run ./examples/http-server
//	curl -N -d 'Count to twenty.' http://127.0.0.1:8080/generate     curl http://127.0.0.1:8080/runs/ID
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	midstream "github.com/midstream-dev/midstream/clients/go"
)

type service struct {
	client *midstream.Client
	model  string
}

func main() {
	client, err := midstream.NewClient(cmp.Or(os.Getenv("MIDSTREAM_TARGET"), "127.0.0.1:50051"))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	served := &service{client: client, model: cmp.Or(os.Getenv("MIDSTREAM_MODEL"), "local/smollm2")}
	http.HandleFunc("POST /generate", served.generate)
	http.HandleFunc("GET /runs/{id}", served.show)

	listener, err := net.Listen("tcp", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	log.Fatal(http.Serve(listener, nil))
}

func (s *service) generate(response http.ResponseWriter, request *http.Request) {
	prompt, err := io.ReadAll(http.MaxBytesReader(response, request.Body, 1<<20))
	if err != nil {
		http.Error(response, "the prompt is too long", http.StatusRequestEntityTooLarge)
		return
	}
	run, err := s.client.Generate(request.Context(), s.model, midstream.Prompt(string(prompt)), nil)
	if err != nil {
		fail(response, err)
		return
	}
	defer run.Close()
	response.Header().Set("X-Run-Id", run.RunID())
	controller := http.NewResponseController(response)
	for delta, err := range run.Deltas() {
		if err != nil {
			fail(response, err)
			return
		}
		_, _ = io.WriteString(response, delta.Text)
		_ = controller.Flush()
	}
}

func (s *service) show(response http.ResponseWriter, request *http.Request) {
	run, err := s.client.Get(request.Context(), request.PathValue("id"), &midstream.GetOptions{Wait: 10 * time.Second})
	if err != nil {
		fail(response, err)
		return
	}
	_ = json.NewEncoder(response).Encode(map[string]string{
		"state": run.GetState().String(), "text": midstream.TextOf(run.GetMessage()),
	})
}

// fail tells the reason; after the first delta it is too late for another status.
func fail(response http.ResponseWriter, err error) {
	reason := "INTERNAL"
	if known, isKnown := errors.AsType[*midstream.ClientError](err); isKnown {
		reason = known.Reason
	}
	http.Error(response, reason, http.StatusBadGateway)
}
