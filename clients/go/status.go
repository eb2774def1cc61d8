package midstream

import (
	"context"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

const errorDomain = "midstream.v1"

// callErrors makes the error of each failure of a call, by its reason.
var callErrors = map[string]func(*ClientError) error{
	"CONNECTION_LOST":             func(e *ClientError) error { return &ConnectionLost{e} },
	"DEADLINE_EXCEEDED":           func(e *ClientError) error { return &DeadlineExceeded{e} },
	"STREAM_GAP":                  func(e *ClientError) error { return &StreamGapError{e} },
	"STREAM_CLOSED":               func(e *ClientError) error { return &StreamClosed{e} },
	"INVALID_REQUEST":             func(e *ClientError) error { return &InvalidRequest{e} },
	"MODEL_NOT_FOUND":             func(e *ClientError) error { return &ModelNotFound{e} },
	"RUN_NOT_FOUND":               func(e *ClientError) error { return &RunNotFound{e} },
	"RUN_EXPIRED":                 func(e *ClientError) error { return &RunExpired{e} },
	"RUN_ID_CONFLICT":             func(e *ClientError) error { return &RunIDConflict{e} },
	"RUN_LIVE":                    func(e *ClientError) error { return &RunLive{e} },
	"CONVERSATION_BUSY":           func(e *ClientError) error { return &ConversationBusy{e} },
	"CONTINUE_UNSUPPORTED":        func(e *ClientError) error { return &ContinueUnsupported{e} },
	"TOO_MANY_REMEMBERED_CANCELS": func(e *ClientError) error { return &TooManyRememberedCancels{e} },
	"TOO_MANY_RUNS":               func(e *ClientError) error { return &TooManyRuns{e} },
	"DRAINING":                    func(e *ClientError) error { return &Draining{e} },
	"CURSOR_AHEAD":                func(e *ClientError) error { return &CursorAhead{e} },
	"SLOW_READER":                 func(e *ClientError) error { return &SlowReader{e} },
	"STORE_UNAVAILABLE":           func(e *ClientError) error { return &StoreUnavailable{e} },
	"STORE_CORRUPT":               func(e *ClientError) error { return &StoreCorrupt{e} },
	"INTERNAL":                    func(e *ClientError) error { return &Internal{e} },
}

// runFailures makes the error of each failure of a run, by its reason.
var runFailures = map[string]func(*RunFailed) error{
	"UPSTREAM_UNAVAILABLE":  func(e *RunFailed) error { return &UpstreamUnavailable{e} },
	"UPSTREAM_REJECTED":     func(e *RunFailed) error { return &UpstreamRejected{e} },
	"UPSTREAM_RATE_LIMITED": func(e *RunFailed) error { return &UpstreamRateLimited{e} },
	"UPSTREAM_TRUNCATED":    func(e *RunFailed) error { return &UpstreamTruncated{e} },
	"UPSTREAM_MALFORMED":    func(e *RunFailed) error { return &UpstreamMalformed{e} },
	"FIRST_TOKEN_TIMEOUT":   func(e *RunFailed) error { return &FirstTokenTimeout{e} },
	"IDLE_TIMEOUT":          func(e *RunFailed) error { return &IdleTimeout{e} },
	"RUN_TIME_EXCEEDED":     func(e *RunFailed) error { return &RunTimeExceeded{e} },
	"OUTPUT_TOO_LARGE":      func(e *RunFailed) error { return &OutputTooLarge{e} },
	"QUEUE_TIMEOUT":         func(e *RunFailed) error { return &QueueTimeout{e} },
	"SERVER_SHUTDOWN":       func(e *RunFailed) error { return &ServerShutdown{e} },
	"OWNER_LOST":            func(e *RunFailed) error { return &OwnerLost{e} },
	"STORE_UNAVAILABLE":     func(e *RunFailed) error { return &RunStoreUnavailable{e} },
	"INTERNAL":              func(e *RunFailed) error { return &RunInternal{e} },
}

// errorOfCall is the typed error of a call that failed with a status, or before it had one.
func errorOfCall(err error) error {
	rich := status.Convert(err).Proto()
	made := clientErrorOf(rich)
	made.FieldViolations = fieldViolationsOf(rich)
	switch {
	case made.Reason != "":
	case made.Code == codes.Unavailable:
		made.Reason = "CONNECTION_LOST"
	case made.Code == codes.DeadlineExceeded:
		made.Reason, made.cause = "DEADLINE_EXCEEDED", context.DeadlineExceeded
	case made.Code == codes.Canceled:
		made.cause = context.Canceled
	}
	return typed(made)
}

// FailureOf is the error of a run that ended FAILED: a *[RunFailed], or one of the types that wrap it. It is nil for
// every other run, a cancelled one too.
func FailureOf(run *Run) error {
	if run.GetState() != RunStateFailed {
		return nil
	}
	base := clientErrorOf(run.GetError())
	base.RunID = run.GetRunId()
	base.LastSequence = run.GetLastSequence()
	base.Partial = run.GetMessage()
	failed := &RunFailed{ClientError: base, Run: run}
	if make, isKnown := runFailures[base.Reason]; isKnown {
		return make(failed)
	}
	return failed
}

// typed wraps an error in the type that its reason has, if it has one.
func typed(base *ClientError) error {
	if make, isKnown := callErrors[base.Reason]; isKnown {
		return make(base)
	}
	return base
}

func newError(reason, message string, cause error) error {
	return typed(&ClientError{Reason: reason, Message: message, cause: cause})
}

func clientErrorOf(rich *statuspb.Status) *ClientError {
	made := &ClientError{Message: rich.GetMessage(), Code: codes.Code(rich.GetCode()), RetryAfter: retryAfterOf(rich)}
	if made.Message == "" {
		made.Message = "the call failed"
	}
	for _, detail := range rich.GetDetails() {
		info := &errdetails.ErrorInfo{}
		if unpack(detail, info) && info.GetDomain() == errorDomain {
			made.Reason, made.Metadata = info.GetReason(), info.GetMetadata()
			break
		}
	}
	return made
}

func fieldViolationsOf(rich *statuspb.Status) []FieldViolation {
	violations := []FieldViolation(nil)
	for _, detail := range rich.GetDetails() {
		badRequest := &errdetails.BadRequest{}
		if unpack(detail, badRequest) {
			for _, each := range badRequest.GetFieldViolations() {
				violations = append(violations, FieldViolation{each.GetField(), each.GetDescription()})
			}
		}
	}
	return violations
}

func retryAfterOf(rich *statuspb.Status) time.Duration {
	for _, detail := range rich.GetDetails() {
		retry := &errdetails.RetryInfo{}
		if unpack(detail, retry) {
			return retry.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// unpack reads a detail if it is of the target's type.
func unpack(detail *anypb.Any, target proto.Message) bool {
	return detail.MessageIs(target) && detail.UnmarshalTo(target) == nil
}
