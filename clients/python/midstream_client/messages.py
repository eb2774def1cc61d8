"""Values that requests are made of, from what is handy in Python."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Literal, TypeAlias

from google.protobuf import duration_pb2

from midstream.v1 import generation_service_pb2, run_pb2

Seconds: TypeAlias = float | timedelta | duration_pb2.Duration
"""A span of time; a number is seconds."""

MessageLike: TypeAlias = run_pb2.Message | Mapping[str, str]
"""A message, or `{"role": "user", "content": "…"}`."""

Messages: TypeAlias = str | MessageLike | Sequence[MessageLike]
"""A conversation, oldest first; a string is one message of the user."""

DetachLike: TypeAlias = Literal["cancel", "continue"] | Seconds | run_pb2.DetachPolicy
"""What happens when nobody follows a run any more; a span of time is the grace of GRACE."""

ToolLike: TypeAlias = generation_service_pb2.Tool | Mapping[str, object]
"""A tool, or `{"name": …, "description": …, "parameters": {a JSON Schema}, "strict": …}`."""

ToolChoiceLike: TypeAlias = Literal["auto", "none", "required"] | Mapping[str, str] | generation_service_pb2.ToolChoice
"""How tools are chosen; `{"tool": name}` is a tool that must be called."""

_ROLES = {
    "system": run_pb2.ROLE_SYSTEM,
    "developer": run_pb2.ROLE_DEVELOPER,
    "user": run_pb2.ROLE_USER,
    "assistant": run_pb2.ROLE_ASSISTANT,
}
_MODES = {
    "auto": generation_service_pb2.ToolChoice.MODE_AUTO,
    "none": generation_service_pb2.ToolChoice.MODE_NONE,
    "required": generation_service_pb2.ToolChoice.MODE_REQUIRED,
}


def system(text: str) -> run_pb2.Message:
    """A message of the application."""
    return _text_message(run_pb2.ROLE_SYSTEM, text)


def user(text: str) -> run_pb2.Message:
    """A message of the person who asks."""
    return _text_message(run_pb2.ROLE_USER, text)


def assistant(text: str) -> run_pb2.Message:
    """A message of the model. What a run has made is a Message already: `run.message`."""
    return _text_message(run_pb2.ROLE_ASSISTANT, text)


def tool_result(tool_call_id: str, text: str, *, is_error: bool = False) -> run_pb2.Message:
    """What a tool returned."""
    part = run_pb2.Part(text=run_pb2.Text(text=text))
    result = run_pb2.ToolResult(tool_call_id=tool_call_id, parts=[part], is_error=is_error)
    return run_pb2.Message(role=run_pb2.ROLE_TOOL, parts=[run_pb2.Part(tool_result=result)])


def tool(
    name: str,
    description: str = "",
    parameters: Mapping[str, object] | str | None = None,
    *,
    strict: bool | None = None,
) -> generation_service_pb2.Tool:
    """Something that the model may call. `parameters` is a JSON Schema; text is passed on byte for byte."""
    schema = parameters if isinstance(parameters, str) else json.dumps(parameters) if parameters is not None else ""
    made = generation_service_pb2.Tool(name=name, description=description, parameters_schema=schema)
    if strict is not None:
        made.strict = strict
    return made


def to_messages(messages: Messages, *, system_text: str | None) -> list[run_pb2.Message]:
    """The conversation, with the system's message in front if there is one."""
    head = [system(system_text)] if system_text is not None else []
    if isinstance(messages, str):
        return [*head, user(messages)]
    if isinstance(messages, run_pb2.Message | Mapping):
        return [*head, _to_message(messages)]
    return [*head, *(_to_message(each) for each in messages)]


def to_duration(seconds: Seconds) -> duration_pb2.Duration:
    """A Duration."""
    if isinstance(seconds, duration_pb2.Duration):
        return seconds
    duration = duration_pb2.Duration()
    if isinstance(seconds, timedelta):
        duration.FromTimedelta(seconds)
    else:
        duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def to_detach_policy(policy: DetachLike) -> run_pb2.DetachPolicy:
    """A DetachPolicy."""
    match policy:
        case run_pb2.DetachPolicy():
            return policy
        case "cancel":
            return run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_CANCEL)
        case "continue":
            return run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_CONTINUE)
        case str():
            raise ValueError(
                f"on_detach is 'cancel', 'continue', a number of seconds or a DetachPolicy, not {policy!r}"
            )
        case _:
            return run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_GRACE, grace=to_duration(policy))


def to_tool(value: ToolLike) -> generation_service_pb2.Tool:
    """A Tool."""
    if isinstance(value, generation_service_pb2.Tool):
        return value
    return tool(**value)  # type: ignore[arg-type]  # a wrong key or type is the caller's TypeError


def to_tool_choice(choice: ToolChoiceLike) -> generation_service_pb2.ToolChoice:
    """A ToolChoice."""
    if isinstance(choice, generation_service_pb2.ToolChoice):
        return choice
    if isinstance(choice, Mapping):
        return generation_service_pb2.ToolChoice(
            mode=generation_service_pb2.ToolChoice.MODE_TOOL, tool_name=choice["tool"]
        )
    if choice not in _MODES:
        raise ValueError(f"tool_choice is one of {', '.join(_MODES)}, {{'tool': name}} or a ToolChoice, not {choice!r}")
    return generation_service_pb2.ToolChoice(mode=_MODES[choice])


def _text_message(role: run_pb2.Role.ValueType, text: str) -> run_pb2.Message:
    return run_pb2.Message(role=role, parts=[run_pb2.Part(text=run_pb2.Text(text=text))])


def _to_message(message: MessageLike) -> run_pb2.Message:
    if isinstance(message, run_pb2.Message):
        return message
    role = message.get("role", "")
    if role not in _ROLES or set(message) != {"role", "content"}:
        raise ValueError(f"a message is a Message, or a 'role' ({', '.join(_ROLES)}) and a 'content', not {message!r}")
    return _text_message(_ROLES[role], message["content"])
