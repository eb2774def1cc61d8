// The interop runners of Go, as PROTOCOL.md says: through the client library, and with generated stubs only.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// result is what is printed of a scenario.
type result struct {
	Scenario     string `json:"scenario"`
	OK           bool   `json:"ok"`
	Detail       string `json:"detail"`
	Milliseconds int64  `json:"milliseconds"`
}

const maxDetail = 500

func main() {
	world := &world{kind: os.Args[1]}
	if err := json.NewDecoder(os.Stdin).Decode(world); err != nil {
		fmt.Fprintln(os.Stderr, "no configuration:", err)
		os.Exit(1)
	}
	output := json.NewEncoder(os.Stdout)
	output.SetEscapeHTML(false)
	for _, name := range world.Scenarios {
		if err := output.Encode(runOne(world, name)); err != nil {
			os.Exit(1)
		}
	}
}

func runOne(world *world, name string) result {
	started := time.Now()
	failed := make(chan error, 1)
	go func() { failed <- attempt(world, name) }()
	made := result{Scenario: name, OK: true}
	select {
	case err := <-failed:
		if err != nil {
			made.OK, made.Detail = false, oneLine(err.Error())
		}
	case <-time.After(limitOf(name)):
		made.OK, made.Detail = false, "the time limit passed"
	}
	made.Milliseconds = time.Since(started).Milliseconds()
	return made
}

// attempt runs a scenario and closes what it opened.
func attempt(world *world, name string) (err error) {
	scenario, isKnown := scenarios[name]
	if !isKnown {
		return fmt.Errorf("no scenario %q here", name)
	}
	run := &scenarioRun{world: world, name: name}
	defer run.closeAll()
	defer func() {
		if recovered := recover(); recovered != nil {
			failed, isOurs := recovered.(failure)
			if !isOurs {
				panic(recovered)
			}
			err = failed
		}
	}()
	scenario(run)
	return nil
}

// limitOf is as in scenarios.json.
func limitOf(name string) time.Duration {
	switch name {
	case "leak":
		return 120 * time.Second
	case "server_restart_midstream", "drain":
		return 45 * time.Second
	default:
		return 30 * time.Second
	}
}

func oneLine(text string) string {
	line := []rune{}
	for _, each := range text {
		if each == '\n' || each == '\r' {
			each = ' '
		}
		line = append(line, each)
	}
	return string(line[:min(len(line), maxDetail)])
}
