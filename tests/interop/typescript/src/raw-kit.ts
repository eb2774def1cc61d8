/** With nothing but generated stubs. */

import { readFileSync } from "node:fs";

import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type CallOptions, type Client } from "@connectrpc/connect";
import { createGrpcTransport, Http2SessionManager } from "@connectrpc/connect-node";
import {
  BadRequestSchema,
  DetachPolicy_Action,
  ErrorInfoSchema,
  GenerateRequestSchema,
  GenerationService,
  Role,
  type GenerateRequest,
  type Run,
  type RunEvent,
  type RunStarted,
} from "midstream-client/proto";

import { check } from "./check.js";
import type { Endpoint, Failure, Kit, Reader, StartFields, WatchStart } from "./kit.js";
import { Transcript } from "./transcript.js";

const RESUME_MS = 10_000;
const RESUME_INTERVAL_MS = 100;
// How Connect reports a connection that broke: a status of its own, not the server's.
const LOST = new Set([
  Code.Unavailable,
  Code.Unknown,
  Code.Internal,
  Code.Canceled,
  Code.Aborted,
  Code.InvalidArgument,
]);

type Stub = Client<typeof GenerationService>;
type Open = (options: CallOptions) => AsyncIterable<RunEvent>;

export class RawReader implements Reader {
  readonly transcript: Transcript;
  readonly events: RunEvent[] = [];
  started: RunStarted | undefined;
  #call: AsyncIterator<RunEvent> | undefined;
  #controller = new AbortController();
  #final: Run | undefined;

  constructor(
    readonly openFirst: Open,
    readonly openAgain: (afterSequence: number) => Open,
    begin: number,
  ) {
    this.transcript = new Transcript(begin, true);
  }

  open(): void {
    this.#call ??= this.openFirst({ signal: this.#controller.signal })[Symbol.asyncIterator]();
  }

  async next(): Promise<boolean> {
    let lostTime: number | undefined;
    for (;;) {
      this.open();
      try {
        const { done, value } = await (this.#call as AsyncIterator<RunEvent>).next();
        if (!done) this.#take(value);
        return !done;
      } catch (error) {
        lostTime ??= performance.now();
        if (!isLost(error) || performance.now() > lostTime + RESUME_MS) throw error;
        await this.#reopen();
      }
    }
  }

  async final(): Promise<Run> {
    check(this.#final !== undefined, "the stream ends with RunFinished");
    return this.#final;
  }

  async leave(): Promise<void> {
    this.#controller.abort();
    await this.#call?.next().catch(() => undefined);
  }

  async #reopen(): Promise<void> {
    await new Promise((resolve) => setTimeout(resolve, RESUME_INTERVAL_MS));
    const open = this.transcript.last > 0 ? this.openAgain(this.transcript.last) : this.openFirst;
    this.#call = open({ signal: this.#controller.signal })[Symbol.asyncIterator]();
  }

  #take(read: RunEvent): void {
    check(this.#final === undefined, "nothing after RunFinished");
    this.events.push(read);
    const { event } = read;
    const sequence = Number(read.sequence);
    const firstSequence = Number(read.firstSequence) || sequence;
    if (event.case === "progress") return;
    if (event.case === "snapshot") {
      this.transcript.snapshot(event.value.run, sequence);
      return;
    }
    this.transcript.entry(firstSequence, sequence);
    if (event.case === "started") this.started = event.value;
    if (event.case === "finished") this.#final = event.value.run;
    if (event.case !== "delta") return;
    const { partIndex, offset, payload } = event.value;
    this.transcript.delta({ firstSequence, sequence, partIndex, offset: Number(offset), payload });
  }
}

export class RawKit implements Kit {
  readonly kind = "raw";
  readonly streams: Stub;
  readonly control: Stub;
  readonly #sessions: Http2SessionManager[] = [];
  readonly #headers: Record<string, string>;

  constructor({ target, tls, apiKey }: Endpoint) {
    const options = tls ? { ca: readFileSync(tls.ca_file), servername: tls.server_name } : {};
    const baseUrl = `${tls ? "https" : "http"}://${target}`;
    const connect = () => {
      const sessionManager = new Http2SessionManager(baseUrl, undefined, options);
      this.#sessions.push(sessionManager);
      return createClient(GenerationService, createGrpcTransport({ baseUrl, sessionManager }));
    };
    this.streams = connect();
    this.control = connect();
    this.#headers = apiKey ? { authorization: `Bearer ${apiKey}` } : {};
  }

  start(runId: string, model: string, fields: StartFields): RawReader {
    const request = generateRequest(runId, model, fields);
    const timeout = fields.timeoutMs === undefined ? {} : { timeoutMs: fields.timeoutMs };
    const open: Open = (options) => this.streams.generate(request, { ...this.#options(options), ...timeout });
    return new RawReader(open, (last) => this.#watching(runId, { afterSequence: last }, true), 0);
  }

  /** A run without an id, and the id that the server tells. */
  startNameless(model: string, text: string): { reader: RawReader; id: () => string } {
    let id = "";
    const onHeader = (headers: Headers) => {
      id = headers.get("midstream-run-id") ?? "";
    };
    const request = generateRequest("", model, { text });
    const open: Open = (options) => this.streams.generate(request, { ...this.#options(options), onHeader });
    return { reader: new RawReader(open, () => open, 0), id: () => id };
  }

  watch(runId: string, start: WatchStart = {}): RawReader {
    const again = (last: number) => this.#watching(runId, { afterSequence: last }, false);
    return new RawReader(this.#watching(runId, start, false), again, start.afterSequence ?? 0);
  }

  cancel(runId: string, reason = "") {
    return this.control.cancel({ runId, reason }, this.#options());
  }

  get(runId: string, options: { view?: number; isWaiting?: boolean } = {}): Promise<Run> {
    const request = { runId, messageView: options.view ?? 0, waitUntilFinished: options.isWaiting ?? false };
    return this.control.getRun(request, this.#options());
  }

  async list(labels: Record<string, string>, pageSize: number, state: Run["state"] = 0): Promise<Run[]> {
    return (await this.page(labels, pageSize, "", state)).runs;
  }

  page(labels: Record<string, string>, pageSize: number, pageToken: string, state: Run["state"] = 0) {
    return this.control.listRuns({ labels, pageSize, pageToken, state }, this.#options());
  }

  async delete(runId: string): Promise<void> {
    await this.control.deleteRun({ runId }, this.#options());
  }

  models() {
    return this.control.listModels({}, this.#options());
  }

  failure(error: unknown): Failure | undefined {
    if (!(error instanceof ConnectError)) return undefined;
    const infos = error.findDetails(ErrorInfoSchema);
    const reason =
      infos.length === 1 && infos[0]?.domain === "midstream.v1" ? infos[0].reason : `${infos.length} reasons`;
    const fields = error.findDetails(BadRequestSchema)[0]?.fieldViolations ?? [];
    return { code: error.code, reason: infos.length === 0 ? "" : reason, fields };
  }

  close(): void {
    for (const each of this.#sessions) each.abort();
  }

  #watching(runId: string, { afterSequence, fromSnapshot }: WatchStart, claim: boolean): Open {
    const start = fromSnapshot
      ? ({ case: "fromSnapshot", value: true } as const)
      : afterSequence === undefined
        ? ({ case: undefined } as const)
        : ({ case: "afterSequence", value: BigInt(afterSequence) } as const);
    return (options) => this.streams.watchRun({ runId, claim, start }, this.#options(options));
  }

  #options(options: CallOptions = {}): CallOptions {
    return { ...options, headers: this.#headers };
  }
}

function generateRequest(runId: string, model: string, fields: StartFields): GenerateRequest {
  const { text, labels, hasTool, totalMs, temperature, conversationId = "", onConflict = 0 } = fields;
  const tools: MessageInitShape<typeof GenerateRequestSchema>["tools"] = hasTool
    ? [{ name: "get_weather", parametersSchema: '{"type":"object"}' }]
    : [];
  return create(GenerateRequestSchema, {
    runId,
    model,
    messages: [{ role: Role.USER, parts: [{ part: { case: "text", value: { text } } }] }],
    tools,
    labels: labels ?? {},
    conversationId,
    onConflict,
    onDetach:
      fields.isLeft || fields.timeoutMs
        ? { action: DetachPolicy_Action.CANCEL }
        : { action: DetachPolicy_Action.GRACE, grace: { seconds: 10n } },
    ...(totalMs === undefined ? {} : { limits: { total: { nanos: totalMs * 1_000_000 } } }),
    ...(temperature === undefined ? {} : { parameters: { temperature } }),
  });
}

function isLost(error: unknown): boolean {
  if (!(error instanceof ConnectError) || !LOST.has(error.code)) return false;
  return error.findDetails(ErrorInfoSchema).length === 0;
}
