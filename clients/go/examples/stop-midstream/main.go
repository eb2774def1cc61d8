// Streams an answer, stops after so many characters, and shows what was kept.
//
//	MIDSTREAM_TARGET=127.0.0.1:50051 MIDSTREAM_MODEL=local/smollm2 go run ./examples/stop-midstream
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"

	midstream "github.com/midstream-dev/midstream/clients/go"
)

func main() {
	if err := stopMidstream(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func stopMidstream(ctx context.Context) error {
	client, err := midstream.NewClient(cmp.Or(os.Getenv("MIDSTREAM_TARGET"), "127.0.0.1:50051"))
	if err != nil {
		return err
	}
	defer client.Close()

	model := cmp.Or(os.Getenv("MIDSTREAM_MODEL"), "local/smollm2")
	run, err := client.Generate(ctx, model, midstream.Prompt("Tell me a story about a lighthouse."), nil)
	if err != nil {
		return err
	}
	defer run.Close()
	for delta, err := range run.Deltas() {
		if err != nil {
			return err
		}
		fmt.Print(delta.Text)
		if len(run.Text()) > 80 {
			break
		}
	}
	if err := run.Close(); err != nil {
		return err
	}

	kept, err := run.Result(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s %s: %d characters kept\n",
		kept.GetState(), kept.GetCancelReason(), len(midstream.TextOf(kept.GetMessage())))
	return nil
}
