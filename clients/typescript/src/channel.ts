/**
 * Connections: one for streams, and one for control.
 *
 * A stream that waits for its turn on a busy connection must not keep a Cancel waiting behind it, so control calls have
 * a connection of their own.
 */

import { readFileSync } from "node:fs";
import type { ClientHttp2Stream, Http2Session, SecureClientSessionOptions } from "node:http2";

import { Code, ConnectError, createClient, type Client as ServiceClient } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";

import { ConnectionLost } from "./errors.js";
import { GenerationService } from "./gen/midstream/v1/generation_service_pb.js";

// A server sends something at least every 15 s on a stream, so these pings never look like too many.
const STREAM_PINGS = { pingIntervalMs: 10_000, pingTimeoutMs: 5_000 };
const CONTROL_PINGS = { pingIntervalMs: 30_000, pingTimeoutMs: 5_000 };
const CONNECT_TIMEOUT_MS = 5_000;
/** A ping that is not answered, and a connection that is not made, are over before; what takes longer never ends. */
const STUCK_MS = 11_000;

/** No answer of Midstream is larger than 4 MiB. */
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;

/** How to speak TLS. Without an authority of its own it trusts those that Node trusts. */
export interface TlsOptions {
  /** A PEM file with the authorities to trust. */
  readonly caFile?: string | undefined;
  /** The authorities to trust, as PEM. */
  readonly ca?: string | Buffer | undefined;
  /** The name that the server's certificate must be good for. Default: the host of the target. */
  readonly serverName?: string | undefined;
  /** The client's own certificate and key, as PEM. */
  readonly certificate?: string | Buffer | undefined;
  readonly key?: string | Buffer | undefined;
}

/**
 * Connect's sessions, without a crash: it stops listening to a session that it replaces, and an error that the old one
 * emits later, such as that of a ping without an answer, would then end the process.
 */
class Sessions extends Http2SessionManager {
  readonly #guarded = new WeakSet<Http2Session>();

  override async request(...args: Parameters<Http2SessionManager["request"]>): Promise<ClientHttp2Stream> {
    const stream = await super.request(...args);
    const { session } = stream;
    if (session && !this.#guarded.has(session)) {
      this.#guarded.add(session);
      session.on("error", () => undefined); // its streams have told
    }
    return stream;
  }
}

/** A connection that is made when it is needed, and made again after it broke. */
export class Channel {
  readonly #make: () => Sessions;
  readonly #baseUrl: string;
  #sessions: Sessions;
  #service: ServiceClient<typeof GenerationService>;

  constructor(target: string, tls: TlsOptions | boolean, pings: typeof STREAM_PINGS) {
    this.#baseUrl = `${tls ? "https" : "http"}://${hostAndPort(target)}`;
    const options = typeof tls === "object" ? sessionOptions(tls) : undefined;
    this.#make = () => new Sessions(this.#baseUrl, pings, options);
    this.#sessions = this.#make();
    this.#service = this.#stub();
  }

  /** The stub. Ask for it at each call. */
  get service(): ServiceClient<typeof GenerationService> {
    return this.#service;
  }

  /** Connects, if it is not connected. Throws ConnectionLost if that fails, or takes too long. */
  async connect(): Promise<void> {
    const sessions = this.#sessions;
    const late = setTimeout(() => {
      if (sessions.state() !== "connecting") return; // a ping has its own timeout, and streams may go on here
      sessions.abort(new ConnectError(`no connection within ${CONNECT_TIMEOUT_MS} ms`, Code.Unavailable));
    }, CONNECT_TIMEOUT_MS);
    let stuck: NodeJS.Timeout | undefined;
    const never = new Promise<"stuck">((resolve) => (stuck = setTimeout(resolve, STUCK_MS, "stuck")));
    try {
      const state = await Promise.race([sessions.connect(), never]);
      if (state === "open" || state === "idle") return;
      if (state === "stuck" && sessions === this.#sessions) this.#renew();
    } finally {
      clearTimeout(late);
      clearTimeout(stuck);
    }
    const cause = sessions.error();
    const message = cause instanceof ConnectError ? cause.rawMessage : "";
    throw new ConnectionLost(message, { code: Code.Unavailable, cause });
  }

  /** Ends every call. */
  close(): void {
    this.#sessions.abort();
  }

  #renew(): void {
    this.close();
    this.#sessions = this.#make();
    this.#service = this.#stub();
  }

  #stub(): ServiceClient<typeof GenerationService> {
    const transport = createGrpcTransport({
      baseUrl: this.#baseUrl,
      sessionManager: this.#sessions,
      acceptCompression: [],
      readMaxBytes: MAX_ANSWER_BYTES,
    });
    return createClient(GenerationService, transport);
  }
}

/** Both connections. Nothing is connected before the first call. */
export class Transport {
  readonly streams: Channel;
  readonly control: Channel;
  readonly headers: Readonly<Record<string, string>>;
  isClosed = false;

  constructor(target: string, tls: TlsOptions | boolean, apiKey: string | undefined) {
    this.streams = new Channel(target, tls, STREAM_PINGS);
    this.control = new Channel(target, tls, CONTROL_PINGS);
    this.headers = apiKey ? { authorization: `Bearer ${apiKey}` } : {};
  }

  /** Ends every call. Safe to call twice. */
  close(): void {
    this.isClosed = true;
    this.streams.close();
    this.control.close();
  }
}

function hostAndPort(target: string): string {
  const address = target.replace(/^dns:\/{0,3}/, "");
  if (!/^[^/\s]+:\d+$/.test(address)) throw new TypeError(`a target is "host:port", not ${JSON.stringify(target)}`);
  return address;
}

function sessionOptions(tls: TlsOptions): SecureClientSessionOptions {
  const ca = tls.caFile === undefined ? tls.ca : readFileSync(tls.caFile);
  return {
    ...(ca === undefined ? {} : { ca }),
    ...(tls.serverName === undefined ? {} : { servername: tls.serverName }),
    ...(tls.certificate === undefined ? {} : { cert: tls.certificate }),
    ...(tls.key === undefined ? {} : { key: tls.key }),
  };
}
