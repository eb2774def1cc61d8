/** Values that requests are made of, from what is handy in JavaScript. */

import { create } from "@bufbuild/protobuf";

import {
  ToolChoice_Mode,
  ToolChoiceSchema,
  ToolSchema,
  type Tool,
  type ToolChoice,
} from "./gen/midstream/v1/generation_service_pb.js";
import { MessageSchema, Role, RunState, type Message } from "./gen/midstream/v1/run_pb.js";

/** A message, or `{ role: "user", content: "…" }`. */
export type MessageLike = Message | { readonly role: keyof typeof ROLES; readonly content: string };

/** A conversation, oldest first; a string is one message of the user. */
export type Messages = string | MessageLike | readonly MessageLike[];

/** A tool, or its name, description and parameters (a JSON Schema; text is passed on byte for byte). */
export type ToolLike =
  | Tool
  | {
      readonly name: string;
      readonly description?: string;
      readonly parameters?: object | string;
      readonly strict?: boolean;
    };

/** How tools are chosen; `{ tool: name }` is a tool that must be called. */
export type ToolChoiceLike = keyof typeof MODES | { readonly tool: string } | ToolChoice;

const ROLES = { system: Role.SYSTEM, developer: Role.DEVELOPER, user: Role.USER, assistant: Role.ASSISTANT } as const;
const MODES = { auto: ToolChoice_Mode.AUTO, none: ToolChoice_Mode.NONE, required: ToolChoice_Mode.REQUIRED } as const;

/** A message of the application. */
export function system(text: string): Message {
  return textMessage(Role.SYSTEM, text);
}

/** A message of the person who asks. */
export function user(text: string): Message {
  return textMessage(Role.USER, text);
}

/** A message of the model. What a run has made is a Message already: `run.message`. */
export function assistant(text: string): Message {
  return textMessage(Role.ASSISTANT, text);
}

/** What a tool returned. */
export function toolResult(toolCallId: string, text: string, isError = false): Message {
  const parts = [{ part: { case: "text", value: { text } } as const }];
  const result = { toolCallId, parts, isError };
  return create(MessageSchema, { role: Role.TOOL, parts: [{ part: { case: "toolResult", value: result } }] });
}

/** Something that the model may call. `parameters` is a JSON Schema; text is passed on byte for byte. */
export function tool(name: string, description = "", parameters?: object | string, strict?: boolean): Tool {
  const parametersSchema = typeof parameters === "string" ? parameters : parameters ? JSON.stringify(parameters) : "";
  return create(ToolSchema, { name, description, parametersSchema, ...(strict === undefined ? {} : { strict }) });
}

/** The text parts of a message, joined. */
export function textOf(message: Message | undefined): string {
  return (message?.parts ?? []).map(({ part }) => (part.case === "text" ? part.value.text : "")).join("");
}

/** Whether a run in this state is over. */
export function isEnding(state: RunState): boolean {
  return state === RunState.COMPLETED || state === RunState.CANCELLED || state === RunState.FAILED;
}

/** The conversation, with the system's message in front if there is one. */
export function toMessages(messages: Messages, systemText: string | undefined): Message[] {
  const head = systemText === undefined ? [] : [system(systemText)];
  if (typeof messages === "string") return [...head, user(messages)];
  return [...head, ...(isList(messages) ? messages : [messages]).map(toMessage)];
}

export function toTool(value: ToolLike): Tool {
  return isGenerated(value) ? value : tool(value.name, value.description, value.parameters, value.strict);
}

export function toToolChoice(choice: ToolChoiceLike): ToolChoice {
  if (typeof choice === "object" && isGenerated(choice)) return choice;
  if (typeof choice === "object")
    return create(ToolChoiceSchema, { mode: ToolChoice_Mode.TOOL, toolName: choice.tool });
  if (!(choice in MODES)) {
    throw new TypeError(`toolChoice is one of ${Object.keys(MODES).join(", ")}, { tool: name } or a ToolChoice`);
  }
  return create(ToolChoiceSchema, { mode: MODES[choice] });
}

function textMessage(role: Role, text: string): Message {
  return create(MessageSchema, { role, parts: [{ part: { case: "text", value: { text } } }] });
}

function toMessage(message: MessageLike): Message {
  if (isGenerated(message)) return message;
  if (!(message.role in ROLES) || typeof message.content !== "string") {
    throw new TypeError(`a message is a Message, or a role (${Object.keys(ROLES).join(", ")}) and a content`);
  }
  return textMessage(ROLES[message.role], message.content);
}

function isList(messages: MessageLike | readonly MessageLike[]): messages is readonly MessageLike[] {
  return Array.isArray(messages);
}

function isGenerated<T extends object>(value: T): value is Extract<T, { $typeName: string }> {
  return "$typeName" in value;
}
