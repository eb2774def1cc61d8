"""A conversation as turns, for dialects whose messages are texts with something beside them.

Whatever stands where nobody could have said it is refused with its path.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from midstream_server.model import Blob, Message, Part, Reasoning, Refusal, Role, Text, ToolCall, ToolResult
from midstream_server.upstreams.mapping import plain_texts, refuse_part

WireObject = dict[str, object]
"""A JSON object as a dialect writes it."""


@dataclass(slots=True, kw_only=True)
class Instructions:
    """Of a system or a developer."""

    role: Role
    texts: list[str]


@dataclass(slots=True, kw_only=True)
class UserTurn:
    """What a user says at once, each with its path."""

    contents: list[tuple[Text | Blob, str]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class ResultTurn:
    """What one tool returned."""

    tool_call_id: str
    texts: list[str]
    is_error: bool
    path: str


@dataclass(slots=True, kw_only=True)
class ModelTurn:
    """What the model said before; calls with their paths."""

    said: list[Text | Refusal] = field(default_factory=list)
    thoughts: list[Part] = field(default_factory=list)
    calls: list[tuple[ToolCall, str]] = field(default_factory=list)


Turn = Instructions | UserTurn | ResultTurn | ModelTurn


def read_turns(messages: Sequence[Message]) -> Iterator[Turn]:
    """All turns in order; a message of a user may be several, one of the model is one.

    Raises:
        InvalidRequest: a part cannot be expressed; names it.
    """
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        match message.role:
            case Role.SYSTEM | Role.DEVELOPER:
                yield Instructions(role=message.role, texts=plain_texts(message.parts, path, "must be text here"))
            case Role.USER | Role.TOOL:
                yield from _user_turns(message.parts, path)
            case Role.ASSISTANT:
                yield _model_turn(message.parts, path)
            case _:
                assert_never(message.role)


def _user_turns(parts: Sequence[Part], path: str) -> Iterator[UserTurn | ResultTurn]:
    """What the user says, and what tools returned, in order."""
    turn = UserTurn()
    for index, part in enumerate(parts):
        part_path = f"{path}.parts[{index}]"
        match part.content:
            case Text() as text:
                turn.contents.append((text, f"{part_path}.text"))
            case Blob() as blob:
                turn.contents.append((blob, f"{part_path}.blob"))
            case ToolResult() as result:
                if turn.contents:
                    yield turn
                    turn = UserTurn()
                yield _result_turn(result, f"{part_path}.tool_result")
            case ToolCall() | Reasoning() | Refusal():
                refuse_part(part_path, part, "only the model says this")
            case _:
                assert_never(part.content)
    if turn.contents:
        yield turn


def _result_turn(result: ToolResult, path: str) -> ResultTurn:
    texts = plain_texts(result.parts, path, "must be text here")
    return ResultTurn(tool_call_id=result.tool_call_id, texts=texts, is_error=result.is_error, path=path)


def _model_turn(parts: Sequence[Part], path: str) -> ModelTurn:
    turn = ModelTurn()
    for index, part in enumerate(parts):
        part_path = f"{path}.parts[{index}]"
        match part.content:
            case Text() | Refusal() as said:
                turn.said.append(said)
            case Reasoning():
                turn.thoughts.append(part)
            case ToolCall() as call:
                turn.calls.append((call, f"{part_path}.tool_call"))
            case Blob() | ToolResult():
                refuse_part(part_path, part, "the model can only have said text and called tools here")
            case _:
                assert_never(part.content)
    return turn
