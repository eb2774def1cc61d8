/** What a scenario works with. */

import { randomBytes } from "node:crypto";

import type { Run } from "midstream-client/proto";

import { check, equal } from "./check.js";
import { ClientKit } from "./client-kit.js";
import type { Endpoint, Kit, Reader, StartFields } from "./kit.js";
import { RawKit } from "./raw-kit.js";
import type { Transcript } from "./transcript.js";

/** What the harness gives. */
export interface Configuration {
  readonly target: string;
  readonly proxy_target: string;
  readonly scripted_target: string;
  readonly control: string;
  readonly tls: Endpoint["tls"];
  readonly api_key: string | null;
  readonly models: Readonly<Record<string, string>>;
  readonly scenarios: readonly string[];
}

export class Stage {
  readonly #configuration: Configuration;
  readonly #kind: "client" | "raw";
  readonly #kits: Kit[] = [];

  constructor(configuration: Configuration, kind: "client" | "raw") {
    this.#configuration = configuration;
    this.#kind = kind;
  }

  /** A client, or a pair of channels, of its own; closed with the stage. */
  kit(via: "target" | "proxy_target" | "scripted_target" = "target", resumeMs?: number): Kit {
    const { tls, api_key: apiKey } = this.#configuration;
    const endpoint: Endpoint = {
      target: this.#configuration[via],
      tls: via === "scripted_target" ? null : tls,
      apiKey,
      ...(resumeMs === undefined ? {} : { resumeMs }),
    };
    const kit = this.#kind === "client" ? new ClientKit(endpoint) : new RawKit(endpoint);
    this.#kits.push(kit);
    return kit;
  }

  model(script: string): string {
    const model = this.#configuration.models[script];
    check(model !== undefined, `a model for the script ${script}`);
    return model;
  }

  start(kit: Kit, runId: string, script: string, fields: Partial<StartFields> = {}): Reader {
    return kit.start(runId, this.model(script), { text: runId, ...fields });
  }

  /** Starts a run and reads it to its end. */
  complete(kit: Kit, runId: string, script: string, fields: Partial<StartFields> = {}): Promise<Run> {
    return toEnd(this.start(kit, runId, script, fields));
  }

  /** Starts a run with `words` and reads its first word. */
  async firstWord(kit: Kit, runId: string, fields: Partial<StartFields> = {}): Promise<Reader> {
    const reader = this.start(kit, runId, "words", fields);
    reader.open();
    await this.open(runId, "one");
    await untilText(reader, "one");
    return reader;
  }

  async open(runId: string, ...gates: string[]): Promise<void> {
    for (const gate of gates) await this.control("/upstream/open", { run_id: runId, gate });
  }

  /** Waits until the upstream is closed, and checks how many requests it got. */
  async closed(runId: string, requests: number): Promise<Record<string, unknown>> {
    const seen = await this.control("/upstream/closed", { run_id: runId });
    equal(seen["open"], 0, "open upstream requests");
    equal(seen["requests"], requests, "upstream requests");
    return seen;
  }

  async requests(runId: string): Promise<number> {
    return (await this.control("/upstream/see", { run_id: runId }))["requests"] as number;
  }

  async control(path: string, body: object = {}): Promise<Record<string, unknown>> {
    const response = await fetch(this.#configuration.control + path, { method: "POST", body: JSON.stringify(body) });
    const answer = (await response.json()) as Record<string, unknown>;
    check(response.ok, `${path} to be done; it says ${JSON.stringify(answer)}`);
    return answer;
  }

  close(): void {
    for (const each of this.#kits) each.close();
  }
}

export function newId(scenario: string): string {
  return `${scenario}-${randomBytes(4).toString("hex")}`;
}

/** Reads to the end; the transcript is exact then. */
export async function toEnd(reader: Reader): Promise<Run> {
  while (await reader.next());
  const run = await reader.final();
  reader.transcript.checkFinal(run);
  return run;
}

/** Reads until the text is this. */
export function untilText(reader: Reader, text: string): Promise<void> {
  return until(reader, text, (transcript) => transcript.text);
}

export async function until(reader: Reader, goal: string, said: (transcript: Transcript) => string): Promise<void> {
  for (;;) {
    const sofar = said(reader.transcript);
    check(goal.startsWith(sofar), `${JSON.stringify(goal)}, came ${JSON.stringify(sofar.slice(0, 80))}`);
    if (sofar === goal) return;
    check(await reader.next(), `${JSON.stringify(goal)}; the stream ended after ${JSON.stringify(sofar.slice(0, 80))}`);
  }
}
