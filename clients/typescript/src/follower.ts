/**
 * Where a reader stands in a run, and what it does next. No I/O and no waiting.
 *
 * A stream asks for the next call's request, hands over each event, and reports each way in which a call ended before
 * the run did. The answer is how long to wait before the next call, or an error that says why there is none.
 */

import { create } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";

import { MessageAccumulator } from "./accumulator.js";
import { deltaOf, type Delta } from "./deltas.js";
import { ConnectionLost, DeadlineExceeded, MidstreamClientError, SlowReader, StreamGapError } from "./errors.js";
import {
  WatchRunRequestSchema,
  type GenerateRequest,
  type WatchRunRequest,
} from "./gen/midstream/v1/generation_service_pb.js";
import type { Message, Run, RunEvent, RunProgress, RunStarted } from "./gen/midstream/v1/run_pb.js";
import { isEnding, textOf } from "./messages.js";

export type FollowRequest = GenerateRequest | WatchRunRequest;

const REFUSALS = new Set<Code | undefined>([
  Code.InvalidArgument,
  Code.Unauthenticated,
  Code.PermissionDenied,
  Code.NotFound,
  Code.AlreadyExists,
  Code.FailedPrecondition,
  Code.ResourceExhausted,
  Code.OutOfRange,
  Code.Unimplemented,
]);

/** What a connection that broke on the way looks like besides UNAVAILABLE, if no reason of Midstream comes with it. */
const TRANSPORT_CODES = new Set<Code | undefined>([Code.Internal, Code.Unknown, Code.Canceled]);

/** How long to wait before each attempt to resume: at once, then doubling from 100 ms to 1 s, with jitter. */
export function backoffMs(attempt: number, jitter: () => number = Math.random): number {
  if (attempt === 0) return 0;
  return Math.min(1000, 100 * 2 ** Math.min(attempt - 1, 30)) * (0.5 + 0.5 * jitter());
}

export interface FollowerOptions {
  readonly resumeMs: number;
  readonly timeoutMs?: number | undefined;
  readonly clock?: () => number;
  readonly jitter?: () => number;
}

/** A reader's place in a run. */
export class Follower {
  /** The run. */
  readonly runId: string;
  /** Whether this reader holds a claim: leaving stops the run. */
  readonly claims: boolean;
  /** The last sequence that was received. */
  lastSequence: number;
  /** The run's first event, once it came. */
  started: RunStarted | undefined;
  /** The latest news. */
  progress: RunProgress | undefined;
  /** The run as it ended, once it has. */
  final: Run | undefined;

  readonly #opening: FollowRequest;
  readonly #resumeMs: number;
  readonly #timeoutMs: number | undefined;
  readonly #clock: () => number;
  readonly #jitter: () => number;
  readonly #message: MessageAccumulator;
  #deadline: number | undefined;
  #lostTime: number | undefined;
  #attempt = 0;
  #mayExist = false;
  #heard = false;

  constructor(opening: FollowRequest, options: FollowerOptions) {
    this.#opening = opening;
    this.#resumeMs = options.resumeMs;
    this.#timeoutMs = options.timeoutMs;
    this.#clock = options.clock ?? (() => performance.now());
    this.#jitter = options.jitter ?? Math.random;
    const watched = isWatch(opening) ? opening : undefined;
    this.lastSequence = watched?.start.case === "afterSequence" ? Number(watched.start.value) : 0;
    this.#message = new MessageAccumulator(this.lastSequence > 0);
    this.runId = opening.runId;
    this.claims = watched === undefined || watched.claim;
  }

  /** The text received so far, or of the final message. */
  get text(): string {
    return this.final ? textOf(this.final.message) : this.#message.text;
  }

  /** The message so far, or the final one. */
  get message(): Message {
    return this.final?.message ?? this.#message.message();
  }

  /** The next call's request, and how long it may take. Throws DeadlineExceeded if the caller's timeout is over. */
  nextCall(): { request: FollowRequest; timeoutMs: number | undefined } {
    return { request: this.#nextRequest(), timeoutMs: this.remainingMs() };
  }

  /** What is left of the caller's timeout, which begins with the first call. Throws DeadlineExceeded if nothing is. */
  remainingMs(): number | undefined {
    if (this.#timeoutMs === undefined) return undefined;
    this.#deadline ??= this.#clock() + this.#timeoutMs;
    const remaining = this.#deadline - this.#clock();
    if (remaining <= 0) throw this.withPlace(new DeadlineExceeded());
    return remaining;
  }

  /** Takes an event and returns what is new and known in it. Throws a StreamGapError if it does not follow. */
  accept(event: RunEvent): readonly Delta[] {
    this.#heard = true;
    this.#lostTime = undefined;
    switch (event.event.case) {
      case "progress":
        this.progress = event.event.value;
        return [];
      case "snapshot":
        return this.#take(event, (first, sequence) => this.#foldSnapshot(event, first, sequence));
      default:
        return this.#take(event, (first, sequence) => this.#foldEntry(event, first, sequence));
    }
  }

  /**
   * Takes the run in place of its last event, where that had been received before: `afterSequence` was its end. Returns
   * whether it is so; otherwise the stream that ended was cut off. Throws a StreamGapError if that run says another
   * thing than what was received: a store that fails over may lose what it had told.
   */
  endAt(run: Run): boolean {
    if (!isEnding(run.state) || Number(run.lastSequence) !== this.lastSequence) return false;
    this.#placed(() => this.#end(run));
    return true;
  }

  /**
   * Takes note of a call that ended before the run did, and returns how many milliseconds to wait before the next one.
   * Throws the error, with the partial, where another call cannot help or the time to resume is over.
   */
  lost(error: MidstreamClientError): number {
    this.noteEnded(error);
    if (!isResumable(error)) throw this.withPlace(error);
    const now = this.#clock();
    this.#lostTime ??= now;
    const delay = Math.max(backoffMs(this.#attempt, this.#jitter), error.retryAfterMs ?? 0);
    if (now + delay >= this.#lostTime + this.#resumeMs) throw this.withPlace(error);
    this.#attempt += 1;
    return Math.max(0, Math.min(delay, (this.#deadline ?? Infinity) - now)); // the next call then tells of the deadline
  }

  /** Takes note of a call that ended. One that was not refused may have started the run, though no event came. */
  noteEnded(error: MidstreamClientError): void {
    const hasSaidWhy = error.code === Code.Unavailable && !(error instanceof ConnectionLost);
    this.#mayExist ||= !(hasSaidWhy || REFUSALS.has(error.code));
  }

  /**
   * Whether leaving now has to stop the run. Not if the server had refused it: a cancel would then be remembered for an
   * id that never ran, or hit the run of somebody else that has this id.
   */
  mustStop(inFlight: boolean): boolean {
    return this.claims && this.final === undefined && (inFlight || this.#heard || this.#mayExist);
  }

  /** The error, with what was received. */
  withPlace<E extends MidstreamClientError>(error: E): E {
    error.runId = this.runId;
    error.lastSequence = this.lastSequence;
    const partial = this.message;
    error.partial = partial.parts.length > 0 ? partial : undefined;
    return error;
  }

  #nextRequest(): FollowRequest {
    const wantsSnapshot = isWatch(this.#opening) && this.#opening.start.case === "fromSnapshot";
    if (!this.#heard || (this.lastSequence === 0 && wantsSnapshot)) return this.#opening;
    return create(WatchRunRequestSchema, {
      runId: this.runId,
      start: { case: "afterSequence", value: BigInt(this.lastSequence) },
      claim: this.claims,
    });
  }

  #take(event: RunEvent, fold: (first: number, sequence: number) => readonly Delta[]): readonly Delta[] {
    const sequence = Number(event.sequence);
    if (sequence <= this.lastSequence) return [];
    const deltas = this.#placed(() => fold(Number(event.firstSequence) || sequence, sequence));
    this.lastSequence = sequence;
    this.#attempt = 0;
    return deltas;
  }

  #placed<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw error instanceof StreamGapError ? this.withPlace(error) : error;
    }
  }

  /** Takes the run as it ended. Throws a StreamGapError if what was received is not what it says. */
  #end(run: Run): void {
    this.final = run;
    this.#message.checkFinal(run.message);
  }

  #foldSnapshot({ event }: RunEvent, _first: number, sequence: number): readonly Delta[] {
    if (event.case !== "snapshot") return [];
    const folded = this.#message.foldSnapshot(event.value.run?.message);
    return folded
      .map((each) => deltaOf(each, this.lastSequence + 1, sequence))
      .filter((each): each is Delta => each !== undefined);
  }

  #foldEntry({ event }: RunEvent, first: number, sequence: number): readonly Delta[] {
    if (first > this.lastSequence + 1) {
      throw new StreamGapError(`event ${first} came after event ${this.lastSequence}`);
    }
    if (event.case === "started") this.started = event.value;
    if (event.case === "finished" && event.value.run) this.#end(event.value.run);
    if (event.case !== "delta") return [];
    const folded = this.#message.fold(event.value, first <= this.lastSequence);
    const delta = deltaOf(folded, Math.max(first, this.lastSequence + 1), sequence);
    return delta ? [delta] : [];
  }
}

export function isWatch(request: FollowRequest): request is WatchRunRequest {
  return request.$typeName === "midstream.v1.WatchRunRequest";
}

function isResumable(error: MidstreamClientError): boolean {
  if (error instanceof SlowReader || error.code === Code.Unavailable) return true;
  return TRANSPORT_CODES.has(error.code) && !error.reason;
}
