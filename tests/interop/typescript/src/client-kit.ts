/** Through the client library. */

import { create } from "@bufbuild/protobuf";
import { Client, MidstreamClientError, textOf, tool, type RunStream } from "midstream-client";
import { CancelResponseSchema, type Run } from "midstream-client/proto";

import { check } from "./check.js";
import type { Endpoint, Failure, Kit, Reader, StartFields, WatchStart } from "./kit.js";
import { Transcript } from "./transcript.js";

const MAX_WAIT_MS = 20_000;

class ClientReader implements Reader {
  readonly transcript: Transcript;

  constructor(
    readonly stream: RunStream,
    begin: number,
  ) {
    this.transcript = new Transcript(begin, false);
  }

  get started() {
    return this.stream.started;
  }

  open(): void {
    this.stream.open();
  }

  async next(): Promise<boolean> {
    const { done, value } = await this.stream.next();
    if (done) return false;
    const { text, reasoning, refusal, toolCall } = value;
    this.transcript.entry(value.firstSequence, value.sequence);
    const said = text
      ? { case: "text" as const, value: text }
      : reasoning
        ? { case: "reasoning" as const, value: reasoning }
        : refusal
          ? { case: "refusal" as const, value: refusal }
          : toolCall
            ? { case: "toolCall" as const, value: toolCall }
            : { case: undefined };
    this.transcript.delta({ ...value, payload: said });
    return true;
  }

  async final(): Promise<Run> {
    const run = await this.stream.result();
    check(this.stream.lastSequence === Number(run.lastSequence), "the last sequence of the stream is the run's");
    return run;
  }

  leave(): Promise<void> {
    return this.stream.close();
  }
}

export class ClientKit implements Kit {
  readonly kind = "client";
  readonly client: Client;

  constructor({ target, tls, apiKey, resumeMs }: Endpoint) {
    this.client = new Client(target, {
      apiKey: apiKey ?? undefined,
      tls: tls ? { caFile: tls.ca_file, serverName: tls.server_name } : false,
      resumeMs,
    });
  }

  start(runId: string, model: string, fields: StartFields): ClientReader {
    const { text, labels, hasTool, totalMs, temperature, conversationId, onConflict, timeoutMs } = fields;
    const stream = this.client.generate(model, text, {
      runId,
      labels,
      tools: hasTool ? [tool("get_weather", "", '{"type":"object"}')] : [],
      limits: totalMs === undefined ? undefined : { totalMs },
      parameters: temperature === undefined ? undefined : { temperature },
      conversationId,
      onConflict,
      timeoutMs,
      onDetach: timeoutMs === undefined ? { graceMs: 10_000 } : "cancel",
    });
    return new ClientReader(stream, 0);
  }

  watch(runId: string, start: WatchStart = {}): ClientReader {
    return new ClientReader(this.client.watch(runId, start), start.afterSequence ?? 0);
  }

  async cancel(runId: string, reason?: string) {
    return create(CancelResponseSchema, await this.client.cancel(runId, reason));
  }

  get(runId: string, options: { view?: number; isWaiting?: boolean } = {}): Promise<Run> {
    return this.client.get(runId, { view: options.view, waitMs: options.isWaiting ? MAX_WAIT_MS : undefined });
  }

  async list(labels: Record<string, string>, pageSize: number, state?: Run["state"]): Promise<Run[]> {
    const runs: Run[] = [];
    for await (const run of this.client.list({ labels, pageSize, state })) runs.push(run);
    return runs;
  }

  delete(runId: string): Promise<void> {
    return this.client.delete(runId);
  }

  models() {
    return this.client.models();
  }

  failure(error: unknown): Failure | undefined {
    if (!(error instanceof MidstreamClientError)) return undefined;
    const { code, reason, fieldViolations: fields, partial } = error;
    return { code, reason, fields, partialText: textOf(partial) };
  }

  close(): void {
    this.client.close();
  }
}
