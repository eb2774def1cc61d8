package midstream

// RunFailed is the failure of a run, not of a call: [FailureOf] makes it. There is a type for each reason of a failure,
// which wraps it.
type RunFailed struct {
	*ClientError
	// Run is the whole run; Partial is what it had made.
	Run *Run
}

// Unwrap is the general error.
func (e *RunFailed) Unwrap() error { return e.ClientError }

// Retryable says whether another run of the same request may succeed.
func (e *RunFailed) Retryable() bool { return e.Metadata["retryable"] == "true" }

// UpstreamUnavailable says that the upstream could not be reached, or broke.
type UpstreamUnavailable struct{ *RunFailed }

// Unwrap is the general failure.
func (e *UpstreamUnavailable) Unwrap() error { return e.RunFailed }

// UpstreamRejected says that the upstream blames the request, its key or its content.
type UpstreamRejected struct{ *RunFailed }

// Unwrap is the general failure.
func (e *UpstreamRejected) Unwrap() error { return e.RunFailed }

// UpstreamRateLimited says that the upstream limits the rate of requests.
type UpstreamRateLimited struct{ *RunFailed }

// Unwrap is the general failure.
func (e *UpstreamRateLimited) Unwrap() error { return e.RunFailed }

// UpstreamTruncated says that the upstream's stream ended without a finish.
type UpstreamTruncated struct{ *RunFailed }

// Unwrap is the general failure.
func (e *UpstreamTruncated) Unwrap() error { return e.RunFailed }

// UpstreamMalformed says that the upstream's answer cannot be read.
type UpstreamMalformed struct{ *RunFailed }

// Unwrap is the general failure.
func (e *UpstreamMalformed) Unwrap() error { return e.RunFailed }

// FirstTokenTimeout says that the upstream sent no output in time.
type FirstTokenTimeout struct{ *RunFailed }

// Unwrap is the general failure.
func (e *FirstTokenTimeout) Unwrap() error { return e.RunFailed }

// IdleTimeout says that the upstream stopped sending output.
type IdleTimeout struct{ *RunFailed }

// Unwrap is the general failure.
func (e *IdleTimeout) Unwrap() error { return e.RunFailed }

// RunTimeExceeded says that the run took longer than the server allows.
type RunTimeExceeded struct{ *RunFailed }

// Unwrap is the general failure.
func (e *RunTimeExceeded) Unwrap() error { return e.RunFailed }

// OutputTooLarge says that the output exceeds 3 MiB.
type OutputTooLarge struct{ *RunFailed }

// Unwrap is the general failure.
func (e *OutputTooLarge) Unwrap() error { return e.RunFailed }

// QueueTimeout says that the conversation did not become free in time.
type QueueTimeout struct{ *RunFailed }

// Unwrap is the general failure.
func (e *QueueTimeout) Unwrap() error { return e.RunFailed }

// ServerShutdown says that the server shut down before the run ended.
type ServerShutdown struct{ *RunFailed }

// Unwrap is the general failure.
func (e *ServerShutdown) Unwrap() error { return e.RunFailed }

// OwnerLost says that the process that owned the run died.
type OwnerLost struct{ *RunFailed }

// Unwrap is the general failure.
func (e *OwnerLost) Unwrap() error { return e.RunFailed }

// RunStoreUnavailable says that the store was away for too long while the run was live. It is a StoreUnavailable too.
type RunStoreUnavailable struct{ *RunFailed }

// Unwrap is the general failure, and the error of the same name.
func (e *RunStoreUnavailable) Unwrap() []error {
	return []error{e.RunFailed, &StoreUnavailable{e.ClientError}}
}

// RunInternal says that a bug of the server ended the run. It is an Internal too.
type RunInternal struct{ *RunFailed }

// Unwrap is the general failure, and the error of the same name.
func (e *RunInternal) Unwrap() []error {
	return []error{e.RunFailed, &Internal{e.ClientError}}
}
