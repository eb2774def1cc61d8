/** Midstream client: stream a generation, stop it midstream, keep the partial text. */

export { Code } from "@connectrpc/connect";
export type { TlsOptions } from "./channel.js";
export { Client, type CancelResult, type ClientOptions } from "./client.js";
export type { Delta } from "./deltas.js";
export {
  ConnectionLost,
  DeadlineExceeded,
  MidstreamClientError,
  RunFailed,
  StreamClosed,
  StreamGapError,
  type FieldViolation,
} from "./errors.js";
export {
  CancelResponse_Outcome as CancelOutcome,
  GenerationParameters_Reasoning_Effort as ReasoningEffort,
  MessageView,
  type GenerationParameters,
  type ListModelsResponse,
  type Model,
  type ResponseFormat,
  type Tool,
  type ToolChoice,
} from "./gen/midstream/v1/generation_service_pb.js";
export {
  CancelReason,
  ConversationPolicy,
  FinishReason,
  PartState,
  Role,
  RunState,
  UsageSource,
  type DetachPolicy,
  type Message,
  type Part,
  type Run,
  type RunLimits,
  type RunProgress,
  type RunStarted,
  type Usage,
} from "./gen/midstream/v1/run_pb.js";
export {
  assistant,
  isEnding,
  system,
  textOf,
  tool,
  toolResult,
  user,
  type MessageLike,
  type Messages,
  type ToolChoiceLike,
  type ToolLike,
} from "./messages.js";
export type { DetachLike, GenerateOptions, Limits, ListFilters, Parameters, WatchOptions } from "./requests.js";
export { newRunId } from "./run-id.js";
export { RunStream } from "./stream.js";
