/**
 * Everything that the client throws, as one tree.
 *
 * There is a class for each `ErrorInfo.reason` of Midstream, named like it: MODEL_NOT_FOUND is a ModelNotFound. A
 * reason that this version does not know is the base class, with that reason. `RunFailed` and what is below it are
 * outcomes of a run, not of a call; only `result({ raiseForFailure: true })` throws them.
 */

import type { Code } from "@connectrpc/connect";

import type { Message, Run } from "./gen/midstream/v1/run_pb.js";

/** A field of a request (0-based snake case path, `messages[0].parts[1].text`) and what is wrong with it. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** What an error is made of, besides its message. */
export interface ErrorDetails {
  readonly reason?: string | undefined;
  readonly code?: Code | undefined;
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  readonly fieldViolations?: readonly FieldViolation[] | undefined;
  readonly retryAfterMs?: number | undefined;
  readonly cause?: unknown;
}

/** The root. */
export class MidstreamClientError extends Error {
  static readonly defaultReason: string = "";
  static readonly defaultMessage: string = "the call failed";

  /** UPPER_SNAKE, for programs. Empty if neither the server nor the client gave one. */
  readonly reason: string;
  /** The gRPC status; undefined if the error arose in the client. */
  readonly code: Code | undefined;
  /** What the server added, by fixed keys. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Of an INVALID_ARGUMENT. */
  readonly fieldViolations: readonly FieldViolation[];
  /** After so many milliseconds the server expects a retry to help, if it said so. */
  readonly retryAfterMs: number | undefined;
  /** The run that was followed. Empty for other calls. */
  runId = "";
  /** The last sequence that was received of it. */
  lastSequence = 0;
  /** What was received of its message; undefined if that is nothing. */
  partial: Message | undefined = undefined;

  constructor(message = "", details: ErrorDetails = {}) {
    const kind = new.target;
    super(message || kind.defaultMessage, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = kind.name;
    this.reason = details.reason || kind.defaultReason;
    this.code = details.code;
    this.metadata = { ...details.metadata };
    this.fieldViolations = details.fieldViolations ?? [];
    this.retryAfterMs = details.retryAfterMs;
  }
}

// --- The client's own -----------------------------------------------------------------------------------------------

/** The server cannot be reached, or the connection was lost and could not be had again in time. */
export class ConnectionLost extends MidstreamClientError {
  static override readonly defaultReason: string = "CONNECTION_LOST";
  static override readonly defaultMessage: string = "the connection to the server was lost";
}

/** The caller's own timeout passed. */
export class DeadlineExceeded extends MidstreamClientError {
  static override readonly defaultReason: string = "DEADLINE_EXCEEDED";
  static override readonly defaultMessage: string = "the timeout passed";
}

/** What arrived does not continue what had arrived before. Nothing of it was delivered. */
export class StreamGapError extends MidstreamClientError {
  static override readonly defaultReason: string = "STREAM_GAP";
  static override readonly defaultMessage: string = "the stream has a gap";
}

/** The stream, or its client, was closed before the run had ended. */
export class StreamClosed extends MidstreamClientError {
  static override readonly defaultReason: string = "STREAM_CLOSED";
  static override readonly defaultMessage: string = "the stream is closed";
}

// --- Admission and reading: the status of a call --------------------------------------------------------------------

/** A request that can never succeed; `fieldViolations` say which fields are wrong. */
export class InvalidRequest extends MidstreamClientError {
  static override readonly defaultReason: string = "INVALID_REQUEST";
  static override readonly defaultMessage: string = "invalid request";
}

/** No upstream or alias has this name. */
export class ModelNotFound extends MidstreamClientError {
  static override readonly defaultReason: string = "MODEL_NOT_FOUND";
  static override readonly defaultMessage: string = "no such model";
}

/** No run has this id. */
export class RunNotFound extends MidstreamClientError {
  static override readonly defaultReason: string = "RUN_NOT_FOUND";
  static override readonly defaultMessage: string = "no such run";
}

/** The run's content was deleted; its id stays taken for a day (NOT_FOUND to read, FAILED_PRECONDITION to start). */
export class RunExpired extends MidstreamClientError {
  static override readonly defaultReason: string = "RUN_EXPIRED";
  static override readonly defaultMessage: string = "the run has expired, or was deleted";
}

/** The id belongs to a run with another request. */
export class RunIdConflict extends MidstreamClientError {
  static override readonly defaultReason: string = "RUN_ID_CONFLICT";
  static override readonly defaultMessage: string = "a run with this id exists and had another request";
}

/** The run has not ended. */
export class RunLive extends MidstreamClientError {
  static override readonly defaultReason: string = "RUN_LIVE";
  static override readonly defaultMessage: string = "the run has not ended";
}

/** Other runs of the conversation are live. */
export class ConversationBusy extends MidstreamClientError {
  static override readonly defaultReason: string = "CONVERSATION_BUSY";
  static override readonly defaultMessage: string = "the conversation has live runs";
}

/** The upstream cannot go on with a partial, or not with this one. */
export class ContinueUnsupported extends MidstreamClientError {
  static override readonly defaultReason: string = "CONTINUE_UNSUPPORTED";
  static override readonly defaultMessage: string = "the model cannot continue this run";
}

/** As many cancels of unknown runs are remembered as may be. */
export class TooManyRememberedCancels extends MidstreamClientError {
  static override readonly defaultReason: string = "TOO_MANY_REMEMBERED_CANCELS";
  static override readonly defaultMessage: string = "too many cancels of runs that never started";
}

/** The server holds as many live runs as it may. */
export class TooManyRuns extends MidstreamClientError {
  static override readonly defaultReason: string = "TOO_MANY_RUNS";
  static override readonly defaultMessage: string = "too many live runs";
}

/** The server is going away. */
export class Draining extends MidstreamClientError {
  static override readonly defaultReason: string = "DRAINING";
  static override readonly defaultMessage: string = "the server is shutting down";
}

/** `afterSequence` is beyond the end of the run's log. */
export class CursorAhead extends MidstreamClientError {
  static override readonly defaultReason: string = "CURSOR_AHEAD";
  static override readonly defaultMessage: string = "afterSequence is beyond the end of the log";
}

/** The stream was not read for too long after the run had ended. Following it again works. */
export class SlowReader extends MidstreamClientError {
  static override readonly defaultReason: string = "SLOW_READER";
  static override readonly defaultMessage: string = "the stream was not read for too long";
}

/** The server's store cannot be reached or written. */
export class StoreUnavailable extends MidstreamClientError {
  static override readonly defaultReason: string = "STORE_UNAVAILABLE";
  static override readonly defaultMessage: string = "the run store is unavailable";
}

/** The server's store is damaged. */
export class StoreCorrupt extends MidstreamClientError {
  static override readonly defaultReason: string = "STORE_CORRUPT";
  static override readonly defaultMessage: string = "the store is damaged";
}

/** A bug of the server. */
export class Internal extends MidstreamClientError {
  static override readonly defaultReason: string = "INTERNAL";
  static override readonly defaultMessage: string = "internal error";
}

// --- Run failures: the error of a run -------------------------------------------------------------------------------

/** A run ended FAILED. `run` is the whole run, `partial` what it had made. */
export class RunFailed extends MidstreamClientError {
  static override readonly defaultMessage: string = "the run failed";
  readonly run: Run;

  constructor(run: Run, details: ErrorDetails = {}) {
    super(run.error?.message ?? "", details);
    this.run = run;
    this.runId = run.runId;
    this.lastSequence = Number(run.lastSequence);
    this.partial = run.message;
  }

  /** Whether another run of the same request may succeed. */
  get retryable(): boolean {
    return this.metadata["retryable"] === "true";
  }
}

/** The upstream could not be reached, or broke. */
export class UpstreamUnavailable extends RunFailed {
  static override readonly defaultReason: string = "UPSTREAM_UNAVAILABLE";
}

/** The upstream blames the request, its key or its content. */
export class UpstreamRejected extends RunFailed {
  static override readonly defaultReason: string = "UPSTREAM_REJECTED";
}

/** The upstream limits the rate of requests. */
export class UpstreamRateLimited extends RunFailed {
  static override readonly defaultReason: string = "UPSTREAM_RATE_LIMITED";
}

/** The upstream's stream ended without a finish. */
export class UpstreamTruncated extends RunFailed {
  static override readonly defaultReason: string = "UPSTREAM_TRUNCATED";
}

/** The upstream's answer cannot be read. */
export class UpstreamMalformed extends RunFailed {
  static override readonly defaultReason: string = "UPSTREAM_MALFORMED";
}

/** The upstream sent no output in time. */
export class FirstTokenTimeout extends RunFailed {
  static override readonly defaultReason: string = "FIRST_TOKEN_TIMEOUT";
}

/** The upstream stopped sending output. */
export class IdleTimeout extends RunFailed {
  static override readonly defaultReason: string = "IDLE_TIMEOUT";
}

/** The run took longer than the server allows. */
export class RunTimeExceeded extends RunFailed {
  static override readonly defaultReason: string = "RUN_TIME_EXCEEDED";
}

/** The output exceeds 3 MiB. */
export class OutputTooLarge extends RunFailed {
  static override readonly defaultReason: string = "OUTPUT_TOO_LARGE";
}

/** The conversation did not become free in time. */
export class QueueTimeout extends RunFailed {
  static override readonly defaultReason: string = "QUEUE_TIMEOUT";
}

/** The server shut down before the run ended. */
export class ServerShutdown extends RunFailed {
  static override readonly defaultReason: string = "SERVER_SHUTDOWN";
}

/** The process that owned the run died. */
export class OwnerLost extends RunFailed {
  static override readonly defaultReason: string = "OWNER_LOST";
}

/** The store was away for too long while the run was live. */
export class RunStoreUnavailable extends RunFailed {
  static override readonly defaultReason: string = "STORE_UNAVAILABLE";
}

/** A bug of the server ended the run. */
export class RunInternal extends RunFailed {
  static override readonly defaultReason: string = "INTERNAL";
}

type CallErrorClass = typeof MidstreamClientError;
type RunFailedClass = typeof RunFailed;

const callErrors: readonly CallErrorClass[] = [
  ConnectionLost,
  DeadlineExceeded,
  StreamGapError,
  StreamClosed,
  InvalidRequest,
  ModelNotFound,
  RunNotFound,
  RunExpired,
  RunIdConflict,
  RunLive,
  ConversationBusy,
  ContinueUnsupported,
  TooManyRememberedCancels,
  TooManyRuns,
  Draining,
  CursorAhead,
  SlowReader,
  StoreUnavailable,
  StoreCorrupt,
  Internal,
];
const runFailures: readonly RunFailedClass[] = [
  UpstreamUnavailable,
  UpstreamRejected,
  UpstreamRateLimited,
  UpstreamTruncated,
  UpstreamMalformed,
  FirstTokenTimeout,
  IdleTimeout,
  RunTimeExceeded,
  OutputTooLarge,
  QueueTimeout,
  ServerShutdown,
  OwnerLost,
  RunStoreUnavailable,
  RunInternal,
];

/** The class of each failure of a call, by its reason. */
export const CALL_ERRORS: ReadonlyMap<string, CallErrorClass> = new Map(
  callErrors.map((each) => [each.defaultReason, each]),
);

/** The class of each failure of a run, by its reason. */
export const RUN_FAILURES: ReadonlyMap<string, RunFailedClass> = new Map(
  runFailures.map((each) => [each.defaultReason, each]),
);
