/** A run that is followed. */

import { Code } from "@connectrpc/connect";

import { Call } from "./call.js";
import type { Transport } from "./channel.js";
import type { CancelResult } from "./client.js";
import type { Delta } from "./deltas.js";
import { ConnectionLost, DeadlineExceeded, MidstreamClientError, StreamClosed } from "./errors.js";
import type { Follower } from "./follower.js";
import {
  RunState,
  type Message,
  type Run,
  type RunEvent,
  type RunProgress,
  type RunStarted,
} from "./gen/midstream/v1/run_pb.js";
import { isEnding } from "./messages.js";
import { cancelRequest } from "./requests.js";
import { errorOfCall, errorOfRun } from "./status.js";

/** How long leaving a stream waits for the server to take the stop. */
const LEAVE_MS = 1_000;
const LEAVE_RETRY_MS = 50;
const LEAVE_REASON = "the client left the stream";
/** How long `result` waits for the ending of a run whose stream was left. */
const AFTERWARDS_MS = 60_000;

/** What a stream asks of its client. */
export interface RunControl {
  cancel(runId: string, reason?: string, options?: { waitMs?: number | undefined }): Promise<CancelResult>;
  get(runId: string, options?: { waitMs?: number | undefined; signal?: AbortSignal }): Promise<Run>;
}

/**
 * A run that is followed, delta by delta, across lost connections.
 *
 * The call starts with the first turn (or `open`). Leaving before the run ended stops it, unless this only watches:
 * by the end of a `for await`, by the end of an `await using` block, by the abort of the signal, by `close`, and by an
 * error of the stream. Turns that are asked for at once are taken one after the other. `cancel` may be called, and
 * what has come may be read, at any time.
 */
export class RunStream implements AsyncIterable<Delta, undefined>, AsyncDisposable {
  readonly #transport: Transport;
  readonly #control: RunControl;
  readonly #follower: Follower;
  readonly #signal: AbortSignal | undefined;
  readonly #pending: Delta[] = [];
  #call: Call | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #interrupt: (() => void) | undefined;
  #leaving: Promise<void> | undefined;
  #isOpen = false;
  #isStopped = false;
  #isLeft = false;

  constructor(transport: Transport, control: RunControl, follower: Follower, signal: AbortSignal | undefined) {
    this.#transport = transport;
    this.#control = control;
    this.#follower = follower;
    this.#signal = signal;
  }

  /** The run's id, known before the first answer. */
  get runId(): string {
    return this.#follower.runId;
  }

  /** The answer's text so far: the text parts, joined. */
  get text(): string {
    return this.#follower.text;
  }

  /** The message so far. */
  get message(): Message {
    return this.#follower.message;
  }

  /** The last sequence that was received: what `watch` takes as `afterSequence`. */
  get lastSequence(): number {
    return this.#follower.lastSequence;
  }

  /** The run's first event, once it came. */
  get started(): RunStarted | undefined {
    return this.#follower.started;
  }

  /** The latest news of the run that is not part of its log. */
  get progress(): RunProgress | undefined {
    return this.#follower.progress;
  }

  /** The run as it ended; undefined before. */
  get final(): Run | undefined {
    return this.#follower.final;
  }

  /** Starts the call, and does not wait for an answer. The first turn does it, if nobody else did. */
  open(): this {
    if (this.#isOpen) return this;
    if (this.#isLeft) throw this.#closedError();
    this.#signal?.throwIfAborted();
    this.#isOpen = true;
    this.#startCall();
    this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
    this.#transport.control.connect().catch(() => undefined); // ahead of the first Cancel
    return this;
  }

  /** The deltas. Leaving the loop leaves the stream. */
  [Symbol.asyncIterator](): AsyncIterator<Delta, undefined> {
    return {
      next: () => this.next(),
      return: async () => {
        await this.close();
        return { done: true, value: undefined };
      },
    };
  }

  /**
   * The next delta, where a loop would be in the way. Done when the run has ended; `final` says how. Throws a
   * MidstreamClientError if the run was refused, or cannot be followed any more, and the reason of an aborted signal.
   */
  next(): Promise<IteratorResult<Delta, undefined>> {
    const turn = this.#turn.then(() => this.#next());
    this.#turn = turn.catch(() => undefined);
    return turn;
  }

  /** Stops the run and returns it with its partial message. The stream goes on to the ending. */
  async cancel(reason = "", options: { waitMs?: number | undefined } = {}): Promise<Run> {
    const { run } = await this.#control.cancel(this.runId, reason, options);
    this.#isStopped = true;
    return run;
  }

  /**
   * Follows the run to its end and returns it; deltas that were not read are passed over. With `raiseForFailure` a run
   * that ended FAILED is thrown, as a RunFailed. One that was CANCELLED is returned. Of a stream that was left it
   * returns the run as it ended since.
   */
  async result(options: { raiseForFailure?: boolean } = {}): Promise<Run> {
    const run = this.#isLeft ? await this.#endingAfterwards() : await this.#followToEnd();
    if (options.raiseForFailure && run.state === RunState.FAILED) throw errorOfRun(run);
    return run;
  }

  /** Leaves the stream. Safe to call twice; takes at most 1 s. */
  close(): Promise<void> {
    this.#leaving ??= this.#leave();
    return this.#leaving;
  }

  /** Leaves the stream, at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  readonly #onAbort = (): void => {
    void this.close();
  };

  async #next(): Promise<IteratorResult<Delta, undefined>> {
    try {
      if (!this.#isLeft) this.open();
      for (;;) {
        if (this.#isLeft) throw this.#closedError();
        const delta = this.#pending.shift();
        if (delta) return { done: false, value: delta };
        if (this.final) break;
        await this.#receive();
      }
    } catch (error) {
      await this.close(); // a loop does not ask an iterator that has thrown to return
      throw error;
    }
    this.#forget();
    return { done: true, value: undefined };
  }

  #startCall(): Call {
    if (this.#transport.isClosed) throw this.#closedError();
    const { request, timeoutMs } = this.#follower.nextCall();
    this.#call = new Call(this.#transport.streams, request, timeoutMs, { ...this.#transport.headers });
    return this.#call;
  }

  /** Takes one event, or what came in its place. */
  async #receive(): Promise<void> {
    const call = this.#call ?? this.#startCall();
    let event: RunEvent | undefined;
    try {
      event = await this.#uninterrupted(call.read());
    } catch (failure) {
      await this.#lose(errorOfCall(failure));
      return;
    }
    if (event) this.#pending.push(...this.#follower.accept(event));
    else if (!(await this.#hasSeenTheEnd())) {
      await this.#lose(new ConnectionLost("the stream ended before the run did", { code: Code.Unavailable }));
    }
  }

  /** What was awaited, unless the stream is left meanwhile, or the time is over. */
  #uninterrupted<T>(work: Promise<T>, timeoutMs?: number): Promise<T> {
    let late: NodeJS.Timeout | undefined;
    return new Promise<T>((resolve, reject) => {
      this.#interrupt = () => reject(this.#closedError());
      if (timeoutMs !== undefined) late = setTimeout(() => reject(new DeadlineExceeded()), timeoutMs);
      work.then(resolve, reject);
    }).finally(() => {
      clearTimeout(late);
      this.#interrupt = undefined;
    });
  }

  /** Whether a call that ended, with status OK, before a last event did so because the run was over. */
  async #hasSeenTheEnd(): Promise<boolean> {
    if (this.lastSequence === 0) return false;
    const timeoutMs = this.#follower.remainingMs();
    const asking = new AbortController();
    let run: Run;
    try {
      run = await this.#uninterrupted(this.#control.get(this.runId, { signal: asking.signal }), timeoutMs);
    } catch (error) {
      if (error instanceof MidstreamClientError) return false; // the next call finds out
      throw error;
    } finally {
      asking.abort();
    }
    return this.#follower.endAt(run);
  }

  async #lose(error: MidstreamClientError): Promise<void> {
    this.#call = undefined;
    if (this.#isLeft || this.#transport.isClosed) throw this.#closedError();
    const delay = this.#follower.lost(error);
    if (delay === 0) return;
    const waiting = new AbortController();
    try {
      await this.#uninterrupted(sleep(delay, waiting.signal));
    } finally {
      waiting.abort();
    }
  }

  async #followToEnd(): Promise<Run> {
    while (!(await this.next()).done);
    return this.final as Run;
  }

  async #leave(): Promise<void> {
    const call = this.#call;
    this.#isLeft = this.final === undefined;
    this.#forget();
    if (!this.#isOpen) return;
    if (call?.error) this.#follower.noteEnded(call.error);
    this.#interrupt?.();
    try {
      if (!this.#isStopped && this.#follower.mustStop(call?.isInFlight ?? false)) await this.#stop();
    } finally {
      if (this.#isLeft) call?.cancel();
    }
  }

  /** Sends the stop, again while the server does not answer at all, for at most 1 s. */
  async #stop(): Promise<void> {
    const { control, headers } = this.#transport;
    const deadline = performance.now() + LEAVE_MS;
    while (!this.#transport.isClosed) {
      const timeoutMs = Math.ceil(deadline - performance.now());
      if (timeoutMs <= 0) return;
      try {
        await control.service.cancel(cancelRequest(this.runId, LEAVE_REASON, 0), { timeoutMs, headers });
        return;
      } catch (failure) {
        if (errorOfCall(failure).code !== Code.Unavailable) return; // its grace ends the run
      }
      await sleep(LEAVE_RETRY_MS);
    }
  }

  async #endingAfterwards(): Promise<Run> {
    if (this.final) return this.final;
    await this.close();
    const run = await this.#control.get(this.runId, { waitMs: AFTERWARDS_MS });
    if (!isEnding(run.state)) {
      throw this.#follower.withPlace(new StreamClosed("the stream was left, and the run has not ended since"));
    }
    this.#follower.final = run;
    return run;
  }

  #closedError(): unknown {
    if (this.#isLeft && this.#signal?.aborted) return this.#signal.reason;
    return this.#follower.withPlace(new StreamClosed());
  }

  #forget(): void {
    this.#signal?.removeEventListener("abort", this.#onAbort);
  }
}

/** Waits; an aborted signal ends only what keeps the process alive. */
export function sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => clearTimeout(timer), { once: true });
  });
}
