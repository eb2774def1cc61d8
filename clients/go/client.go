package midstream

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	defaultCancelWait = 5 * time.Second
	maxWait           = 60 * time.Second // the longest wait of one call
	minPause          = 100 * time.Millisecond
)

// Client runs generations on a Midstream server. Goroutines may share it.
type Client struct {
	streams   connection
	control   connection
	settings  *settings
	closed    chan struct{}
	closeOnce sync.Once
}

// CancelResult is what became of a cancel, and the run with its partial message.
type CancelResult struct {
	Outcome CancelOutcome
	Run     *Run
}

// NewClient makes a client of the server at `host:port`, or any name that gRPC resolves. It connects with the first
// call.
func NewClient(target string, options ...Option) (*Client, error) {
	settings, err := newSettings(options)
	if err != nil {
		return nil, err
	}
	streams, err := connect(target, settings, streamKeepalive)
	if err != nil {
		return nil, err
	}
	control, err := connect(target, settings, controlKeepalive, grpc.WithDefaultServiceConfig(controlServiceConfig))
	if err != nil {
		return nil, errors.Join(err, streams.channel.Close())
	}
	return &Client{streams: streams, control: control, settings: settings, closed: make(chan struct{})}, nil
}

// Close closes the connections. Streams that are open end with StreamClosed; their runs go by OnDetach. Safe to call
// twice.
func (c *Client) Close() error {
	var err error
	c.closeOnce.Do(func() {
		close(c.closed)
		err = errors.Join(c.streams.channel.Close(), c.control.channel.Close())
	})
	return err
}

// Generate starts a run of a model, `<upstream>/<name>` or an alias, and follows it. It does not wait for the server:
// what the server says, a refusal too, comes from the stream. The error is of a request that cannot be sent.
//
// Close the stream, or end its context: before the run has ended, both stop it. The context's deadline is the stream's,
// calls that resume it included. No options are the same as &GenerateOptions{}.
func (c *Client) Generate(
	ctx context.Context, model string, messages []*Message, options *GenerateOptions,
) (*RunStream, error) {
	request, err := generateRequest(model, messages, valueOf(options))
	if err != nil {
		return nil, err
	}
	return c.follow(ctx, followGenerate(request, c.resumeTime(resumeTimeOf(request))))
}

// Watch follows a run that exists. Closing the stream, or ending its context, stops the run only if it holds a claim.
func (c *Client) Watch(ctx context.Context, runID string, options *WatchOptions) (*RunStream, error) {
	request, err := watchRequest(runID, valueOf(options))
	if err != nil {
		return nil, err
	}
	return c.follow(ctx, followWatch(request, c.resumeTime(defaultGrace)))
}

// Cancel stops a run and returns it with its partial message. Repeated or too late, it changes nothing. The run need
// not exist yet.
func (c *Client) Cancel(ctx context.Context, runID string, options *CancelOptions) (*CancelResult, error) {
	chosen := valueOf(options)
	wait := chosen.Wait
	if wait == 0 && !chosen.NoWait {
		wait = defaultCancelWait
	}
	response, err := unary(ctx, c, wait, c.control.stub.Cancel, cancelRequest(runID, chosen))
	if err != nil {
		return nil, err
	}
	return &CancelResult{Outcome: response.GetOutcome(), Run: response.GetRun()}, nil
}

// Get returns a run with its message so far. With a wait it answers when the run has ended, or the wait is over.
func (c *Client) Get(ctx context.Context, runID string, options *GetOptions) (*Run, error) {
	chosen := valueOf(options)
	deadline := time.Now().Add(chosen.Wait)
	for {
		request := &midstreamv1.GetRunRequest{RunId: runID, MessageView: chosen.View}
		left := min(maxWait, max(0, time.Until(deadline)))
		if chosen.Wait > 0 {
			request.WaitUntilFinished, request.MaxWait = true, durationpb.New(left)
		}
		run, err := unary(ctx, c, left, c.control.stub.GetRun, request)
		if err != nil {
			return nil, err
		}
		if IsEnding(run.GetState()) || !time.Now().Before(deadline) {
			return run, nil
		}
		// A server that goes away may answer before the wait is over.
		if err := rest(ctx, min(minPause, time.Until(deadline))); err != nil {
			return nil, err
		}
	}
}

// List is the runs without their messages, newest first, page after page. After an error it ends.
func (c *Client) List(ctx context.Context, options *ListOptions) iter.Seq2[*Run, error] {
	return func(yield func(*Run, error) bool) {
		pageToken := ""
		for {
			page, err := unary(ctx, c, 0, c.control.stub.ListRuns, listRequest(valueOf(options), pageToken))
			if err != nil {
				yield(nil, err)
				return
			}
			for _, run := range page.GetRuns() {
				if !yield(run, nil) {
					return
				}
			}
			if pageToken = page.GetNextPageToken(); pageToken == "" {
				return
			}
		}
	}
}

// Delete deletes the content of a run that has ended.
func (c *Client) Delete(ctx context.Context, runID string) error {
	_, err := unary(ctx, c, 0, c.control.stub.DeleteRun, &midstreamv1.DeleteRunRequest{RunId: runID})
	return err
}

// Models is the models that the server knows by name, and the upstreams that did not tell theirs.
func (c *Client) Models(ctx context.Context) (*ModelList, error) {
	return unary(ctx, c, 0, c.control.stub.ListModels, &midstreamv1.ListModelsRequest{})
}

// rest waits, unless the context ends before.
func rest(ctx context.Context, span time.Duration) error {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return errorOfCall(status.FromContextError(ctx.Err()).Err())
	}
}

func (c *Client) resumeTime(byRun time.Duration) time.Duration {
	if c.settings.resumeTime != nil {
		return *c.settings.resumeTime
	}
	return byRun
}

func (c *Client) isClosed() bool {
	return isDone(c.closed)
}

// unary calls a method that follows nothing; `wait` is what the server may take on purpose.
func unary[Request, Response any](
	ctx context.Context, client *Client, wait time.Duration,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error), request *Request,
) (*Response, error) {
	ctx, cancel := context.WithTimeout(ctx, client.settings.requestTimeout+wait)
	defer cancel()
	response, err := method(ctx, request)
	switch {
	case err == nil:
		return response, nil
	case client.isClosed():
		return nil, newError("STREAM_CLOSED", "the client is closed", nil)
	default:
		return nil, errorOfCall(err)
	}
}

func valueOf[Options any](options *Options) Options {
	if options == nil {
		return *new(Options)
	}
	return *options
}

func isDone(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}
