/** What both kinds can do. */

import type {
  CancelResponse,
  ConversationPolicy,
  GetRunRequest,
  ListModelsResponse,
  Run,
  RunStarted,
} from "midstream-client/proto";

import type { Transcript } from "./transcript.js";

/** How to reach a server. */
export interface Endpoint {
  readonly target: string;
  readonly tls: { readonly ca_file: string; readonly server_name: string } | null;
  readonly apiKey: string | null;
  /** How long a client tries to resume, if not for the grace of the run. */
  readonly resumeMs?: number;
}

/** A start, beside the run's id and the model. */
export interface StartFields {
  readonly text: string;
  readonly labels?: Record<string, string>;
  readonly hasTool?: boolean;
  readonly totalMs?: number;
  readonly temperature?: number;
  readonly conversationId?: string;
  readonly onConflict?: ConversationPolicy;
  /** The deadline of the call. */
  readonly timeoutMs?: number;
  /** The server ends the run when the call is gone, since a bare stub sends no Cancel. */
  readonly isLeft?: boolean;
}

export interface WatchStart {
  readonly afterSequence?: number;
  readonly fromSnapshot?: boolean;
}

/** An error of a call, of either kind. */
export interface Failure {
  readonly code: number | undefined;
  readonly reason: string;
  readonly fields: readonly { readonly field: string; readonly description: string }[];
  readonly partialText?: string;
}

/** A stream that is read on demand, and resumed when its connection is lost. */
export interface Reader {
  readonly transcript: Transcript;
  readonly started: RunStarted | undefined;
  /** Sends the request, and reads nothing. */
  open(): void;
  /** Reads on; false at a good end. */
  next(): Promise<boolean>;
  /** The run as it ended, after the end. */
  final(): Promise<Run>;
  /** Leaves in the idiom of the language, before the end. */
  leave(): Promise<void>;
}

export interface Kit {
  readonly kind: "client" | "raw";
  start(runId: string, model: string, fields: StartFields): Reader;
  watch(runId: string, start?: WatchStart): Reader;
  cancel(runId: string, reason?: string): Promise<CancelResponse>;
  get(runId: string, options?: { view?: GetRunRequest["messageView"]; isWaiting?: boolean }): Promise<Run>;
  list(labels: Record<string, string>, pageSize: number, state?: Run["state"]): Promise<Run[]>;
  delete(runId: string): Promise<void>;
  models(): Promise<ListModelsResponse>;
  failure(error: unknown): Failure | undefined;
  close(): void;
}
