package midstream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	midstreamv1 "github.com/midstream-dev/midstream/protos/go/midstream/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Every reason comes as the type of its name, which is a ClientError too.
func TestEveryReasonHasItsType(t *testing.T) {
	for reason := range callErrors {
		err := errorOfCall(refusal(codes.FailedPrecondition, reason))
		checkType(t, reason, err, reason)
	}
	for reason := range runFailures {
		detail, err := anypb.New(&errdetails.ErrorInfo{Reason: reason, Domain: errorDomain})
		if err != nil {
			t.Fatal(err)
		}
		run := &Run{State: RunStateFailed, Error: &statuspb.Status{Details: []*anypb.Any{detail}}}
		failed := FailureOf(run)
		name := reason
		if _, isOfCalls := callErrors[reason]; isOfCalls {
			name = "RUN_" + reason
		}
		checkType(t, reason, failed, name)
		if !isA[*RunFailed](failed) {
			t.Errorf("%s is not a RunFailed", reason)
		}
	}
}

func checkType(t *testing.T, reason string, err error, wanted string) {
	t.Helper()
	name := reflect.TypeOf(err).Elem().Name()
	if !strings.EqualFold(strings.TrimSuffix(name, "Error"), strings.ReplaceAll(wanted, "_", "")) {
		t.Errorf("%s comes as %s", reason, name)
	}
	if base, isOurs := errors.AsType[*ClientError](err); !isOurs || base.Reason != reason {
		t.Errorf("%s is not a ClientError with that reason: %v", reason, err)
	}
}

// What ended a run because of the store, or of a bug, is also the error that a call has for it.
func TestAFailureOfTheStoreIsAlsoTheCallsError(t *testing.T) {
	failed := &RunFailed{ClientError: &ClientError{}}

	if !isA[*StoreUnavailable](&RunStoreUnavailable{failed}) || !isA[*Internal](&RunInternal{failed}) {
		t.Fatal("they are not")
	}
	if FailureOf(&Run{State: RunStateCancelled}) != nil || FailureOf(nil) != nil {
		t.Fatal("a run that did not fail has a failure")
	}
}

// A refusal carries all that the server said, and is readable as a gRPC status.
func TestARefusalCarriesItsDetails(t *testing.T) {
	server := serve(t)
	server.runError = refusal(codes.InvalidArgument, "INVALID_REQUEST",
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "run_id", Description: "bad"},
		}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)},
	)

	_, err := server.client(t).Get(context.Background(), "run", nil)

	invalid, isInvalid := errors.AsType[*InvalidRequest](err)
	if !isInvalid || fmt.Sprint(invalid.FieldViolations) != "[{run_id bad}]" || invalid.RetryAfter != time.Second {
		t.Fatalf("%#v", err)
	}
	if invalid.Metadata["last_sequence"] != "2" || status.Code(err) != codes.InvalidArgument {
		t.Fatalf("%v, %v", invalid.Metadata, status.Code(err))
	}
}

// A reason that this version does not know comes as a plain ClientError.
func TestAnUnknownReasonIsKept(t *testing.T) {
	err := errorOfCall(refusal(codes.Aborted, "FROM_THE_FUTURE"))

	if base, isPlain := err.(*ClientError); !isPlain || base.Reason != "FROM_THE_FUTURE" || base.Code != codes.Aborted {
		t.Fatalf("%#v", err)
	}
}

// Calls that may be repeated are, while the server does not answer; every call carries the key.
func TestCallsAreRepeatedAndCarryTheKey(t *testing.T) {
	server := serve(t)
	server.run, server.failFirst = &Run{RunId: "run", State: RunStateRunning}, 2

	run, err := server.client(t, WithAPIKey("secret")).Get(context.Background(), "run", nil)

	if err != nil || run.GetRunId() != "run" || len(server.received()) != 3 {
		t.Fatalf("%v, %v, %d calls", run, err, len(server.received()))
	}
	if sent := server.metadata[2].Get("authorization"); len(sent) != 1 || sent[0] != "Bearer secret" {
		t.Fatalf("%v", sent)
	}
}

// Waiting for an ending is asked of the server, and ends with it.
func TestGetWaitsForTheEnding(t *testing.T) {
	server := serve(t)
	server.run = &Run{State: RunStateCompleted}

	if _, err := server.client(t).Get(context.Background(), "run", &GetOptions{Wait: 5 * time.Minute}); err != nil {
		t.Fatal(err)
	}

	request := server.received()[0].(*midstreamv1.GetRunRequest)
	if !request.GetWaitUntilFinished() || request.GetMaxWait().AsDuration() != maxWait {
		t.Fatalf("%v", request)
	}
}

// A server that answers before the wait is over is not hurried.
func TestAWaitForAnEndingHurriesNobody(t *testing.T) {
	server := serve(t)
	server.run = &Run{State: RunStateRunning}

	run, err := server.client(t).Get(context.Background(), "run", &GetOptions{Wait: 250 * time.Millisecond})

	if calls := len(server.received()); err != nil || run.GetState() != RunStateRunning || calls < 2 || calls > 5 {
		t.Fatalf("%v, %v, %d calls", run, err, calls)
	}
}

// Details of another domain are not ours, wherever they stand.
func TestOnlyDetailsOfOurDomainAreRead(t *testing.T) {
	theirs := &errdetails.ErrorInfo{Reason: "RUN_NOT_FOUND", Domain: "example.com"}
	ours := &errdetails.ErrorInfo{Reason: "UPSTREAM_REJECTED", Domain: errorDomain}
	alone, _ := status.New(codes.NotFound, "no").WithDetails(theirs)
	both, _ := status.New(codes.Unknown, "no").WithDetails(theirs, ours)

	if base := baseOf(errorOfCall(alone.Err())); base.Reason != "" || base.Code != codes.NotFound {
		t.Fatalf("%#v", base)
	}
	if err := FailureOf(&Run{State: RunStateFailed, Error: both.Proto()}); !isA[*UpstreamRejected](err) {
		t.Fatalf("%#v", err)
	}
}

// A list reads page after page, and no page more than is wanted.
func TestAListReadsPageAfterPage(t *testing.T) {
	server := serve(t)
	pages := []*midstreamv1.ListRunsResponse{
		{Runs: []*Run{{RunId: "3"}, {RunId: "2"}}, NextPageToken: "more"}, {Runs: []*Run{{RunId: "1"}}},
	}
	server.pages = append(pages, pages[0])
	client := server.client(t)

	ids := ""
	for run, err := range client.List(context.Background(), &ListOptions{PageSize: 2, State: RunStateCompleted}) {
		if err != nil {
			t.Fatal(err)
		}
		ids += run.GetRunId()
	}
	for range client.List(context.Background(), nil) {
		break
	}

	second := server.received()[1].(*midstreamv1.ListRunsRequest)
	isAsked := second.GetPageToken() == "more" && second.GetState() == RunStateCompleted
	if ids != "321" || !isAsked || len(server.received()) != 3 {
		t.Fatalf("%s, %v, %d calls", ids, second, len(server.received()))
	}
}

// A caller's own deadline or cancel is visible to errors.Is.
func TestTheCallersContextIsVisibleInErrors(t *testing.T) {
	client := serve(t).client(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	late, stop := context.WithDeadline(context.Background(), time.Now())
	defer stop()

	if _, err := client.Get(cancelled, "run", nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	_, err := client.Get(late, "run", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !isA[*DeadlineExceeded](err) {
		t.Fatalf("%v", err)
	}
	if _, err := client.Generate(cancelled, "m", Prompt("hi"), nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
}

// What a request cannot hold is refused before anything is sent.
func TestImpossibleRequestsAreRefusedHere(t *testing.T) {
	server := serve(t)
	client := server.client(t)

	_, err := client.Generate(context.Background(), "m", nil, &GenerateOptions{
		ProviderOptions: map[string]any{"x": func() {}},
	})
	if err == nil {
		t.Fatal("a function was accepted as a provider option")
	}
	_, err = client.Watch(context.Background(), "run", &WatchOptions{AfterSequence: 1, FromSnapshot: true})
	if err == nil || len(server.received()) != 0 {
		t.Fatalf("%v, %d calls", err, len(server.received()))
	}
}

// Options arrive in the request as they are meant.
func TestOptionsArriveInTheRequest(t *testing.T) {
	request, err := generateRequest("sim/x", Prompt("hi"), GenerateOptions{
		RunID: "chosen", System: "be brief", OnDetach: DetachContinue(), Retention: new(time.Duration),
		Limits: Limits{Total: time.Minute, OutputTokens: 7}, ToolChoice: ToolChoiceOf("f"),
		ProviderOptions: map[string]any{"user": "me"}, OnConflict: ConversationPolicySupersede,
	})

	hasAll := len(request.GetMessages()) == 2 && request.GetRetention() != nil
	if err != nil || request.GetRunId() != "chosen" || !hasAll {
		t.Fatalf("%v, %v", request, err)
	}
	if limits := request.GetLimits(); limits.GetTotal().AsDuration() != time.Minute || limits.GetOutputTokens() != 7 ||
		limits.GetIdle() != nil {
		t.Fatalf("%v", limits)
	}
	if request.GetMessages()[0].GetRole() != RoleSystem || request.GetToolChoice().GetToolName() != "f" ||
		request.GetProviderOptions().GetFields()["user"].GetStringValue() != "me" {
		t.Fatalf("%v", request)
	}
}

// A file that holds no authority is told when the client is made.
func TestABadCAFileIsTold(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	for _, path := range []string{empty, empty + ".missing"} {
		if _, err := NewClient("127.0.0.1:1", WithCAFile(path)); err == nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("%s: %v", path, err)
		}
	}
}
