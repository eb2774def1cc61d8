package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	midstream "github.com/midstream-dev/midstream/clients/go"
)

// checkout is the repository; the server that is run is the one in its .venv.
const (
	checkout = "../../.."
	module   = checkout + "/clients/go"
	model    = "sim/count-1000-100"
)

const (
	limit   = 3 * time.Minute // of a program: of an example, which is compiled first, and of a server that it needs
	cleanUp = 5 * time.Second // how long it may hold its output after it was killed
)

// printed is what the README's examples print when the model counts; a busy machine gets some more text before the stop.
var printed = []string{
	`1 2 3 .*\n\[[0-9a-f-]{36}: \d{2,3} characters kept, state RUN_STATE_CANCELLED\]\n`,
	`1 2 3 4 5 6.*\nkept: 1 2 3 4 5 6.* CANCEL_REASON_REQUESTED\n`,
	`OUTCOME_CANCELLED 1.*\ntrue\n\d+ 1.*\n(\d+ .*\n)*[0-9a-f-]{36} RUN_STATE_CANCELLED\n`,
	`1 2 3 .* 40\n`,
	`no such model: .+\n`,
}

// The examples in the README work as they stand: only the address and the model are others.
func TestTheExamplesOfTheReadmeWork(t *testing.T) {
	readme, err := os.ReadFile(module + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(string(readme), -1)
	if len(examples) != len(printed) {
		t.Fatalf("%d examples, and %d that something is expected of", len(examples), len(printed))
	}
	target := realServer(t)
	for index, example := range examples {
		t.Run(fmt.Sprint(index), func(t *testing.T) {
			code := strings.ReplaceAll(example[1], "127.0.0.1:50051", target)
			folder := t.TempDir()
			file := filepath.Join(folder, "main.go")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(code, "local/smollm2", model)), 0o600); err != nil {
				t.Fatal(err)
			}
			expectPrinted(t, printed[index], program(t, "go", "-C", module, "run", file))
		})
	}
}

// The clients' versions are in step.
func TestTheVersionIsThatOfThePythonClient(t *testing.T) {
	project, err := os.ReadFile(checkout + "/clients/python/pyproject.toml")

	if err != nil || !strings.Contains(string(project), "\nversion = \""+midstream.Version+"\"\n") {
		t.Fatalf("%v, the version here is %s", err, midstream.Version)
	}
}

// The example that stops midstream works.
func TestTheExampleThatStopsMidstreamWorks(t *testing.T) {
	command := program(t, "go", "-C", module, "run", "./examples/stop-midstream")
	command.Env = append(os.Environ(), "MIDSTREAM_TARGET="+realServer(t), "MIDSTREAM_MODEL="+model)

	expectPrinted(t, `1 2 3 .*\nRUN_STATE_CANCELLED CANCEL_REASON_REQUESTED: \d{2,3} characters kept\n`, command)
}

// The HTTP example stops the run of a caller who hangs up.
func TestTheExampleForHTTPStopsTheRunOfACallerWhoHangsUp(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "http-server")
	build := program(t, "go", "-C", module, "build", "-o", binary, "./examples/http-server")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	server := program(t, binary)
	server.Env = append(os.Environ(), "MIDSTREAM_TARGET="+realServer(t), "MIDSTREAM_MODEL="+model, "PORT=0")
	target := "http://" + listening(t, server)
	ctx, hangUp := context.WithTimeout(context.Background(), limit)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target+"/generate", strings.NewReader("Count."))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(response.Body, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}

	hangUp()
	_ = response.Body.Close()

	client := &http.Client{Timeout: limit}
	kept, err := client.Get(target + "/runs/" + response.Header.Get("X-Run-Id"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Body.Close()
	body, err := io.ReadAll(kept.Body)
	if err != nil || !strings.HasPrefix(string(body), `{"state":"RUN_STATE_CANCELLED","text":"1 2`) {
		t.Fatalf("%v, %s", err, body)
	}
}

func expectPrinted(t *testing.T, pattern string, command *exec.Cmd) {
	t.Helper()
	errors := &strings.Builder{}
	command.Stderr = errors
	output, err := command.Output()
	if err != nil || errors.Len() > 0 || !regexp.MustCompile(`\A`+pattern+`\z`).Match(output) {
		t.Fatalf("%v, it printed %q\n%s", err, output, errors)
	}
}

// realServer is the server of this checkout, with the simulator as its upstream.
func realServer(t *testing.T) string {
	t.Helper()
	python, err := filepath.Abs(checkout + "/.venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	simulator := program(t, python, "-m", "midstream_simulator", "--port", "0")
	simulator.Env = append(os.Environ(), "PYTHONPATH=tests")
	server := program(t, python, "-m", "midstream_server", "serve")
	server.Env = append(os.Environ(),
		"MIDSTREAM_LISTEN=127.0.0.1:0",
		"MIDSTREAM_STORE=memory:",
		"MIDSTREAM_LOG__LEVEL=error",
		"MIDSTREAM_UPSTREAMS__SIM__DIALECT=openai-chat",
		"MIDSTREAM_UPSTREAMS__SIM__BASE_URL=http://"+listening(t, simulator)+"/v1",
	)
	return listening(t, server)
}

// program is one that is killed with its test, or when it takes too long: nothing waits for it for ever.
func program(t *testing.T, name string, arguments ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	made := exec.CommandContext(ctx, name, arguments...)
	made.WaitDelay = cleanUp // a `go run` that is killed leaves the program that it runs, which has the same output
	return made
}

// listening starts a program that says on its first line where it listens, and ends it with the test.
func listening(t *testing.T, command *exec.Cmd) string {
	t.Helper()
	command.Dir, command.Stderr = checkout, os.Stderr
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("%v (.venv is made by `make install`)", err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
	})
	line, err := bufio.NewReader(output).ReadString('\n')
	_, address, isSaid := strings.Cut(strings.TrimSpace(line), "listening on ")
	if err != nil || !isSaid {
		t.Fatalf("%v, %v said %q within %s", err, command.Args, line, limit)
	}
	return address
}
