/** The client. */

import { Code, type CallOptions } from "@connectrpc/connect";

import { Transport, type TlsOptions } from "./channel.js";
import { MidstreamClientError, StreamClosed } from "./errors.js";
import { backoffMs, Follower, type FollowRequest } from "./follower.js";
import {
  MessageView,
  type CancelResponse_Outcome,
  type ListModelsResponse,
} from "./gen/midstream/v1/generation_service_pb.js";
import type { Run } from "./gen/midstream/v1/run_pb.js";
import { isEnding, type Messages } from "./messages.js";
import {
  cancelRequest,
  DEFAULT_GRACE_MS,
  generateRequest,
  getRequest,
  listRequest,
  resumeMsOf,
  watchRequest,
  type GenerateOptions,
  type ListFilters,
  type WatchOptions,
} from "./requests.js";
import { errorOfCall } from "./status.js";
import { RunStream, sleep } from "./stream.js";

const DEFAULT_CANCEL_WAIT_MS = 5_000;
/** The longest wait of one call. */
const MAX_WAIT_MS = 60_000;
/** Between two of them, should the server answer before the wait is over. */
const MIN_PAUSE_MS = 100;
/** How often a call that may be repeated is made while the server does not answer it. */
const MAX_ATTEMPTS = 4;

/** How to reach a server. */
export interface ClientOptions {
  /** Sent with every call as a bearer token. */
  readonly apiKey?: string | undefined;
  /** Speak TLS: true, or how. Default: plain text. */
  readonly tls?: TlsOptions | boolean | undefined;
  /** How long a call that follows nothing may take, its own waiting not counted. Default 10 s. */
  readonly requestMs?: number | undefined;
  /** How long a lost connection is tried to be had again; 0 is not at all. Default: the run's grace, or 10 s. */
  readonly resumeMs?: number | undefined;
}

/** What became of a cancel, and the run with its partial message. */
export interface CancelResult {
  readonly outcome: CancelResponse_Outcome;
  readonly run: Run;
}

interface Abortable {
  readonly signal?: AbortSignal | undefined;
}

/** Runs generations on a Midstream server. Nothing is connected before the first call. */
export class Client implements AsyncDisposable {
  readonly #transport: Transport;
  readonly #requestMs: number;
  readonly #resumeMs: number | undefined;

  /** Throws a TypeError if the target is not `host:port`. */
  constructor(target: string, options: ClientOptions = {}) {
    this.#transport = new Transport(target, options.tls ?? false, options.apiKey);
    this.#requestMs = options.requestMs ?? 10_000;
    this.#resumeMs = options.resumeMs;
  }

  /** Closes the connections. Streams that are open end with StreamClosed; their runs go by `onDetach`. */
  close(): void {
    this.#transport.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  /** A run of `model` (`<upstream>/<name>` or an alias), to be followed. Nothing is sent before its first turn. */
  generate(model: string, messages: Messages, options: GenerateOptions = {}): RunStream {
    const request = generateRequest(model, messages, options);
    return this.#stream(request, resumeMsOf(request), options);
  }

  /** A run that exists, to be followed. Nothing is sent before its first turn. */
  watch(runId: string, options: WatchOptions = {}): RunStream {
    return this.#stream(watchRequest(runId, options), DEFAULT_GRACE_MS, options);
  }

  /**
   * Stops a run, which need not exist yet, and returns it with its partial message. Repeated or too late, it changes
   * nothing. `reason` is for people who look later; `waitMs` for the ending is 5 s, at most 60 s, and 0 does not wait.
   */
  async cancel(
    runId: string,
    reason = "",
    options: Abortable & { readonly waitMs?: number | undefined } = {},
  ): Promise<CancelResult> {
    const { waitMs, signal } = options;
    const request = cancelRequest(runId, reason, waitMs);
    const response = await this.#call(
      (call) => this.#transport.control.service.cancel(request, call),
      signal,
      waitMs ?? DEFAULT_CANCEL_WAIT_MS,
    );
    return { outcome: response.outcome, run: response.run as Run };
  }

  /**
   * Returns a run with its message so far. With `waitMs`, as many as you like, it waits for the ending. The view REPLAY
   * of the message is safe to send back to a model.
   */
  async get(
    runId: string,
    options: Abortable & { readonly view?: MessageView | undefined; readonly waitMs?: number | undefined } = {},
  ): Promise<Run> {
    const { view = MessageView.AS_STREAMED, waitMs, signal } = options;
    const deadline = performance.now() + (waitMs ?? 0);
    for (;;) {
      const left = waitMs === undefined ? undefined : Math.min(MAX_WAIT_MS, Math.max(0, deadline - performance.now()));
      const request = getRequest(runId, view, left === undefined ? undefined : Math.round(left));
      const run = await this.#call((call) => this.#transport.control.service.getRun(request, call), signal, left);
      if (isEnding(run.state) || performance.now() >= deadline) return run;
      await sleep(Math.min(MIN_PAUSE_MS, deadline - performance.now())); // a server that goes away may answer early
    }
  }

  /** The runs without their messages, newest first, page after page. */
  async *list(filters: ListFilters = {}): AsyncGenerator<Run, void, undefined> {
    let pageToken = "";
    do {
      const request = listRequest(filters, pageToken);
      const page = await this.#call((call) => this.#transport.control.service.listRuns(request, call), filters.signal);
      yield* page.runs;
      pageToken = page.nextPageToken;
    } while (pageToken);
  }

  /** Deletes the content of a run that has ended. */
  async delete(runId: string, options: Abortable = {}): Promise<void> {
    // Not repeated: the answer to a second delete is that the run has expired.
    await this.#call((call) => this.#transport.control.service.deleteRun({ runId }, call), options.signal, 0, 1);
  }

  /** The models that the server knows by name, and the upstreams that did not tell theirs. */
  models(options: Abortable = {}): Promise<ListModelsResponse> {
    return this.#call((call) => this.#transport.control.service.listModels({}, call), options.signal);
  }

  #stream(
    request: FollowRequest,
    resumeMs: number,
    options: Abortable & { readonly timeoutMs?: number | undefined },
  ): RunStream {
    const follower = new Follower(request, { resumeMs: this.#resumeMs ?? resumeMs, timeoutMs: options.timeoutMs });
    return new RunStream(this.#transport, this, follower, options.signal);
  }

  async #call<Response>(
    method: (options: CallOptions) => Promise<Response>,
    signal: AbortSignal | undefined,
    waitMs = 0,
    attempts = MAX_ATTEMPTS,
  ): Promise<Response> {
    const deadline = performance.now() + this.#requestMs + waitMs;
    for (let attempt = 1; ; attempt += 1) {
      signal?.throwIfAborted();
      if (this.#transport.isClosed) throw new StreamClosed("the client is closed");
      const error = await this.#attempt(method, deadline, signal);
      if (!(error instanceof MidstreamClientError)) return error.response;
      const delay = backoffMs(attempt);
      const isWorthIt = error.code === Code.Unavailable && attempt < attempts && performance.now() + delay < deadline;
      if (!isWorthIt) throw error;
      await sleep(delay);
    }
  }

  async #attempt<Response>(
    method: (options: CallOptions) => Promise<Response>,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Promise<{ response: Response } | MidstreamClientError> {
    const timeoutMs = Math.max(1, Math.ceil(deadline - performance.now()));
    const options = { timeoutMs, headers: { ...this.#transport.headers }, ...(signal ? { signal } : {}) };
    try {
      return { response: await method(options) };
    } catch (failure) {
      if (signal?.aborted) throw signal.reason;
      if (this.#transport.isClosed) return new StreamClosed("the client was closed");
      this.#transport.control.connect().catch(() => undefined); // the next attempt finds it whole, or hears why not
      return errorOfCall(failure);
    }
  }
}
