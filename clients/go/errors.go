package midstream

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// FieldViolation is a field of a request (0-based snake case path, `messages[0].parts[1].text`) and what is wrong with
// it.
type FieldViolation struct {
	Field       string
	Description string
}

// ClientError is what every error of a call or a stream is, or wraps: errors.As finds it in all of them. There is a
// type for each reason of Midstream, named like it: MODEL_NOT_FOUND comes as a *[ModelNotFound]. A reason that this
// version does not know comes as a plain ClientError.
type ClientError struct {
	// Message is for people.
	Message string
	// Reason is UPPER_SNAKE, for programs. Empty if neither the server nor the client gave one.
	Reason string
	// Code is the gRPC status; codes.OK if the error arose in the client.
	Code codes.Code
	// Metadata is what the server added, by fixed keys.
	Metadata map[string]string
	// FieldViolations are those of an INVALID_ARGUMENT.
	FieldViolations []FieldViolation
	// RetryAfter is the time after which the server expects a retry to help; 0 if it did not say.
	RetryAfter time.Duration
	// RunID is the run that was followed. Empty for other calls.
	RunID string
	// LastSequence is the last sequence that was received of it.
	LastSequence uint64
	// Partial is what was received of its message; nil if that is nothing.
	Partial *Message

	cause error
}

// Error is the reason and the message.
func (e *ClientError) Error() string {
	if e.Reason == "" {
		return e.Message
	}
	return e.Reason + ": " + e.Message
}

// Unwrap is the context's error, if a context ended.
func (e *ClientError) Unwrap() error { return e.cause }

// GRPCStatus lets status.Code and status.FromError read the error.
func (e *ClientError) GRPCStatus() *status.Status {
	code := e.Code
	if code == codes.OK {
		code = codes.Unknown
	}
	return status.New(code, e.Error())
}

// The client's own.

// ConnectionLost says that the server cannot be reached, or that the connection could not be had again in time.
type ConnectionLost struct{ *ClientError }

// Unwrap is the general error.
func (e *ConnectionLost) Unwrap() error { return e.ClientError }

// DeadlineExceeded says that the caller's own deadline passed. It wraps context.DeadlineExceeded.
type DeadlineExceeded struct{ *ClientError }

// Unwrap is the general error.
func (e *DeadlineExceeded) Unwrap() error { return e.ClientError }

// StreamGapError says that what arrived does not continue what had arrived before. Nothing of it was delivered.
type StreamGapError struct{ *ClientError }

// Unwrap is the general error.
func (e *StreamGapError) Unwrap() error { return e.ClientError }

// StreamClosed says that the stream, or its client, was closed before the run had ended.
type StreamClosed struct{ *ClientError }

// Unwrap is the general error.
func (e *StreamClosed) Unwrap() error { return e.ClientError }

// Admission and reading: the status of a call.

// InvalidRequest is a request that can never succeed; FieldViolations say which fields are wrong.
type InvalidRequest struct{ *ClientError }

// Unwrap is the general error.
func (e *InvalidRequest) Unwrap() error { return e.ClientError }

// ModelNotFound says that no upstream or alias has this name.
type ModelNotFound struct{ *ClientError }

// Unwrap is the general error.
func (e *ModelNotFound) Unwrap() error { return e.ClientError }

// RunNotFound says that no run has this id.
type RunNotFound struct{ *ClientError }

// Unwrap is the general error.
func (e *RunNotFound) Unwrap() error { return e.ClientError }

// RunExpired says that the run's content was deleted; its id stays taken for a day.
type RunExpired struct{ *ClientError }

// Unwrap is the general error.
func (e *RunExpired) Unwrap() error { return e.ClientError }

// RunIDConflict says that the id belongs to a run with another request.
type RunIDConflict struct{ *ClientError }

// Unwrap is the general error.
func (e *RunIDConflict) Unwrap() error { return e.ClientError }

// RunLive says that the run has not ended.
type RunLive struct{ *ClientError }

// Unwrap is the general error.
func (e *RunLive) Unwrap() error { return e.ClientError }

// ConversationBusy says that other runs of the conversation are live.
type ConversationBusy struct{ *ClientError }

// Unwrap is the general error.
func (e *ConversationBusy) Unwrap() error { return e.ClientError }

// ContinueUnsupported says that the upstream cannot go on with a partial, or not with this one.
type ContinueUnsupported struct{ *ClientError }

// Unwrap is the general error.
func (e *ContinueUnsupported) Unwrap() error { return e.ClientError }

// TooManyRememberedCancels says that as many cancels of unknown runs are remembered as may be.
type TooManyRememberedCancels struct{ *ClientError }

// Unwrap is the general error.
func (e *TooManyRememberedCancels) Unwrap() error { return e.ClientError }

// TooManyRuns says that the server holds as many live runs as it may.
type TooManyRuns struct{ *ClientError }

// Unwrap is the general error.
func (e *TooManyRuns) Unwrap() error { return e.ClientError }

// Draining says that the server is going away.
type Draining struct{ *ClientError }

// Unwrap is the general error.
func (e *Draining) Unwrap() error { return e.ClientError }

// CursorAhead says that AfterSequence is beyond the end of the run's log.
type CursorAhead struct{ *ClientError }

// Unwrap is the general error.
func (e *CursorAhead) Unwrap() error { return e.ClientError }

// SlowReader says that the stream was not read for too long after the run had ended. Following it again works.
type SlowReader struct{ *ClientError }

// Unwrap is the general error.
func (e *SlowReader) Unwrap() error { return e.ClientError }

// StoreUnavailable says that the server's store cannot be reached or written.
type StoreUnavailable struct{ *ClientError }

// Unwrap is the general error.
func (e *StoreUnavailable) Unwrap() error { return e.ClientError }

// StoreCorrupt says that the server's store is damaged.
type StoreCorrupt struct{ *ClientError }

// Unwrap is the general error.
func (e *StoreCorrupt) Unwrap() error { return e.ClientError }

// Internal is a bug of the server.
type Internal struct{ *ClientError }

// Unwrap is the general error.
func (e *Internal) Unwrap() error { return e.ClientError }
