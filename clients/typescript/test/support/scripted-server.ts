/** A server that sends a log as it is told, and loses connections on demand. Real sockets, real gRPC. */

import { once } from "node:events";
import { createServer, type Http2Server, type Http2Session } from "node:http2";
import type { AddressInfo } from "node:net";

import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";

import type { FollowRequest } from "../../src/follower.js";
import {
  CancelResponseSchema,
  ErrorInfoSchema,
  GenerationService,
  ListRunsResponseSchema,
  RunSchema,
  type CancelRequest,
  type ListRunsRequest,
  type Run,
  type RunEvent,
} from "../../src/proto.js";

const UNTIL_MS = 10_000;

export function refusal(code: Code, reason: string): ConnectError {
  return new ConnectError("refused", code, undefined, [
    { desc: ErrorInfoSchema, value: { reason, domain: "midstream.v1" } },
  ]);
}

export class ScriptedServer implements AsyncDisposable {
  readonly requests: FollowRequest[] = [];
  readonly cancels: CancelRequest[] = [];
  readonly lists: ListRunsRequest[] = [];
  readonly authorizations: (string | null)[] = [];
  /** Each is thrown by one call, before it answers anything. */
  readonly refusals: ConnectError[] = [];
  /** Each loses a connection once a stream has sent so many events. */
  readonly cuts: number[] = [];
  /** Streams stay open after so many events of the log, until they are left. */
  parkAfter = Infinity;
  /** How many streams were left by their callers. */
  left = 0;
  /** What GetRun answers. */
  run: Run = create(RunSchema);
  /** How many calls of GetRun came. */
  gets = 0;
  /** GetRun does not answer; so many calls of it wait. */
  holdsGets = false;
  heldGets = 0;
  /** The sockets' remote ports, by method. */
  readonly ports = new Map<string, Set<number>>();
  readonly #log: readonly RunEvent[];
  readonly #server: Http2Server;
  readonly #sessions = new Set<Http2Session>();
  readonly #streams = new Map<string, Http2Session>();
  #changed: (() => void)[] = [];

  private constructor(log: readonly RunEvent[]) {
    this.#log = log;
    const handle = connectNodeAdapter({
      routes: (router) => router.service(GenerationService, this.#service()),
    });
    this.#server = createServer();
    this.#server.on("session", (session) => {
      if (!this.#server.listening) session.destroy(); // it was on its way when the server closed
      this.#sessions.add(session);
      session.on("close", () => this.#sessions.delete(session));
      session.on("error", () => undefined); // it was cut
    });
    this.#server.on("request", (request, response) => {
      const method = request.url.slice(request.url.lastIndexOf("/") + 1);
      const ports = this.ports.get(method) ?? new Set();
      this.ports.set(method, ports.add(request.stream.session?.socket.remotePort ?? 0));
      request.headers["x-session"] = `${request.stream.session?.socket.remotePort}`;
      if (request.stream.session) this.#streams.set(request.headers["x-session"], request.stream.session);
      handle(request, response);
    });
  }

  static async serving(log: readonly RunEvent[]): Promise<ScriptedServer> {
    const server = new ScriptedServer(log);
    server.#server.listen(0, "127.0.0.1");
    await once(server.#server, "listening");
    return server;
  }

  get target(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** How many connections are open. */
  get connections(): number {
    return this.#sessions.size;
  }

  /** Waits until something is so; it is asked after every change. Throws, with what it waited for, after 10 s. */
  async until(isSo: () => boolean): Promise<void> {
    let late: NodeJS.Timeout | undefined;
    const limit = new Promise<never>((_, reject) => {
      late = setTimeout(() => reject(new Error(`not so within ${UNTIL_MS / 1000} s: ${isSo}`)), UNTIL_MS);
    });
    try {
      while (!isSo()) await Promise.race([new Promise<void>((resolve) => this.#changed.push(resolve)), limit]);
    } finally {
      clearTimeout(late);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, "close");
    this.#server.close();
    for (const session of this.#sessions) session.destroy();
    await closed;
  }

  #change(): void {
    for (const resolve of this.#changed.splice(0)) resolve();
  }

  #admit(context: HandlerContext): void {
    this.authorizations.push(context.requestHeader.get("authorization"));
    const refused = this.refusals.shift();
    this.#change();
    if (refused) throw refused;
  }

  async *#follow(request: FollowRequest, after: number, context: HandlerContext): AsyncGenerator<RunEvent> {
    this.requests.push(request);
    this.#admit(context);
    const cut = this.cuts.shift();
    let sent = 0;
    for (const event of this.#log.filter((each) => Number(each.sequence) > after)) {
      if (sent === cut) this.#streams.get(context.requestHeader.get("x-session") ?? "")?.destroy();
      if (Number(event.sequence) > this.parkAfter) await this.#parked(context.signal);
      yield event;
      sent += 1;
    }
  }

  async #parked(signal: AbortSignal): Promise<void> {
    if (!signal.aborted) await once(signal, "abort");
    this.left += 1;
    this.#change();
  }

  #service(): ServiceImpl<typeof GenerationService> {
    return {
      generate: (request, context) => this.#follow(request, 0, context),
      watchRun: (request, context) => {
        const after = request.start.case === "afterSequence" ? Number(request.start.value) : 0;
        return this.#follow(request, after, context);
      },
      cancel: (request, context) => {
        this.cancels.push(request);
        this.#admit(context);
        return create(CancelResponseSchema, { outcome: 2, run: this.run });
      },
      getRun: async (_request, context) => {
        this.gets += 1;
        if (this.holdsGets) this.heldGets += 1;
        this.#admit(context);
        if (this.holdsGets) {
          await once(context.signal, "abort");
          this.heldGets -= 1;
          this.#change();
        }
        return this.run;
      },
      listRuns: (request, context) => {
        this.lists.push(request);
        this.#admit(context);
        const nextPageToken = this.lists.length < 3 ? `${this.lists.length}` : "";
        return create(ListRunsResponseSchema, { runs: [{ runId: `run-${this.lists.length}` }], nextPageToken });
      },
      deleteRun: (_request, context) => {
        this.#admit(context);
        return {};
      },
      listModels: (_request, context) => {
        this.#admit(context);
        return { models: [{ name: "a/b" }] };
      },
    };
  }
}
