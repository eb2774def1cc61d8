"""Checks the messages of a request: who may say what, and what each kind of part needs."""

import re
from collections.abc import Sequence

from midstream.v1 import run_pb2 as wire
from midstream_server.model import Role
from midstream_server.rpc.violations import Violations

_MAX_MESSAGES = 2_000
_MAX_PARTS = 10_000
_TOKEN = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}( *;[ -~]{{1,255}})?")
_ADDRESS = re.compile(r"(https?|gs)://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)

_ANYONE = tuple(Role)
_ANYONE_BUT_TOOLS = (Role.SYSTEM, Role.DEVELOPER, Role.USER, Role.ASSISTANT)
_SPEAKERS = {
    "text": _ANYONE_BUT_TOOLS,
    "blob": _ANYONE_BUT_TOOLS,
    "reasoning": (Role.ASSISTANT,),
    "tool_call": (Role.ASSISTANT,),
    "refusal": (Role.ASSISTANT,),
    "tool_result": (Role.USER, Role.TOOL),
}
"""Which roles may say which kind of part."""


def check_messages(messages: Sequence[wire.Message], violations: Violations) -> None:
    """Checks `GenerateRequest.messages`."""
    if not messages:
        violations.add("messages", "is required")
    if len(messages) > _MAX_MESSAGES:
        violations.add("messages", f"must have at most {_MAX_MESSAGES} messages")
    if sum(_count_parts(message.parts) for message in messages) > _MAX_PARTS:
        violations.add("messages", f"must have at most {_MAX_PARTS} parts in all")
    for index, message in enumerate(messages[:_MAX_MESSAGES]):
        _check_message(f"messages[{index}]", message, violations)


def _count_parts(parts: Sequence[wire.Part]) -> int:
    return len(parts) + sum(len(part.tool_result.parts) for part in parts if part.HasField("tool_result"))


def _check_message(path: str, message: wire.Message, violations: Violations) -> None:
    if not message.role:
        violations.add(f"{path}.role", "is required")
    violations.known(f"{path}.role", message.role, Role)
    if not message.parts:
        violations.add(f"{path}.parts", "is required")
    for index, part in enumerate(message.parts[:_MAX_PARTS]):
        _check_part(f"{path}.parts[{index}]", message.role, part, violations)


def _check_part(path: str, role: int, part: wire.Part, violations: Violations) -> None:
    kind = part.WhichOneof("part")
    if kind is None:
        violations.add(path, "has no part, or one of a kind that this server does not know")
        return
    if role not in _SPEAKERS[kind] and role in _ANYONE:
        violations.add(f"{path}.{kind}", f"must not be in a message of the role {Role(role).name}")
    match kind:
        case "blob":
            _check_blob(f"{path}.blob", part.blob, violations)
        case "tool_call":
            violations.require(f"{path}.tool_call.id", part.tool_call.id)
            violations.require(f"{path}.tool_call.name", part.tool_call.name)
        case "tool_result":
            _check_tool_result(f"{path}.tool_result", part.tool_result, violations)


def _check_tool_result(path: str, result: wire.ToolResult, violations: Violations) -> None:
    violations.require(f"{path}.tool_call_id", result.tool_call_id)
    for index, part in enumerate(result.parts[:_MAX_PARTS]):
        part_path = f"{path}.parts[{index}]"
        match part.WhichOneof("part"):
            case "blob":
                _check_blob(f"{part_path}.blob", part.blob, violations)
            case "text":
                pass
            case _:
                violations.add(part_path, "must be a text or a blob")


def _check_blob(path: str, blob: wire.Blob, violations: Violations) -> None:
    source = blob.WhichOneof("source")
    if source is None:
        violations.add(path, "needs data, a url or a file_id")
    if source == "data":
        violations.require(f"{path}.data", blob.data)
        violations.require(f"{path}.mime_type", blob.mime_type)
    elif source == "url" and not _ADDRESS.fullmatch(blob.url):
        violations.add(f"{path}.url", "must be an http, https or gs URL")
    elif source == "file_id":
        violations.require(f"{path}.file_id", blob.file_id)
    if blob.mime_type and not _MEDIA_TYPE.fullmatch(blob.mime_type):
        violations.add(f"{path}.mime_type", "must be a media type such as image/png")
