/** One call of a stream. */

import type { Channel } from "./channel.js";
import { ConnectionLost, DeadlineExceeded, type MidstreamClientError } from "./errors.js";
import { isWatch, type FollowRequest } from "./follower.js";
import type { RunEvent } from "./gen/midstream/v1/run_pb.js";
import { errorOfCall } from "./status.js";

const CANCELLED = "the call was cancelled";

/**
 * A call that starts when it is made.
 *
 * Its first event is asked for at once, since a refusal is only seen by reading. One reader; it must read to the end or
 * cancel.
 */
export class Call {
  /** Why it ended, if not well. */
  error: MidstreamClientError | undefined;
  readonly #controller = new AbortController();
  readonly #events: Promise<AsyncIterator<RunEvent>>;
  #first: Promise<RunEvent | undefined> | undefined;
  #isSent = false;
  #isDone = false;

  constructor(
    channel: Channel,
    request: FollowRequest,
    timeoutMs: number | undefined,
    headers: Record<string, string>,
  ) {
    this.#events = this.#open(channel, request, timeoutMs, headers);
    this.#first = this.#next();
    this.#first.catch(() => undefined); // whoever reads hears of it
  }

  /** Whether the server may be at work on it. */
  get isInFlight(): boolean {
    return this.#isSent && !this.#isDone;
  }

  /** The next event; undefined if the call ended well. Throws `error`. */
  read(): Promise<RunEvent | undefined> {
    const first = this.#first;
    this.#first = undefined;
    return first ?? this.#next();
  }

  /** Ends it. What is being read then throws. */
  cancel(): void {
    this.#controller.abort();
  }

  async #next(): Promise<RunEvent | undefined> {
    try {
      const result = await (await this.#events).next();
      if (!result.done) return result.value;
    } catch (failure) {
      this.error = errorOfCall(failure);
    }
    this.#isDone = true;
    if (this.error) throw this.error;
    return undefined;
  }

  async #open(
    channel: Channel,
    request: FollowRequest,
    timeoutMs: number | undefined,
    headers: Record<string, string>,
  ): Promise<AsyncIterator<RunEvent>> {
    const { signal } = this.#controller;
    const begin = performance.now();
    await this.#connected(channel, timeoutMs);
    if (signal.aborted) throw new ConnectionLost(CANCELLED); // in the very turn in which it was connected
    this.#isSent = true;
    const left =
      timeoutMs === undefined ? {} : { timeoutMs: Math.max(1, Math.ceil(begin + timeoutMs - performance.now())) };
    const options = { signal, headers, ...left };
    const { service } = channel;
    const events = isWatch(request) ? service.watchRun(request, options) : service.generate(request, options);
    return events[Symbol.asyncIterator]();
  }

  /** Waits for the connection, unless the call is cancelled or its time is over before. */
  async #connected(channel: Channel, timeoutMs: number | undefined): Promise<void> {
    const { signal } = this.#controller;
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        signal.addEventListener("abort", () => reject(new ConnectionLost(CANCELLED)), { once: true });
        if (timeoutMs !== undefined) timer = setTimeout(() => reject(new DeadlineExceeded()), timeoutMs);
        channel.connect().then(resolve, reject);
      });
    } finally {
      clearTimeout(timer);
    }
  }
}
