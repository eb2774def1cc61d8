"""What the request mappings of several dialects share."""

import hashlib
from collections.abc import Mapping
from typing import Never

import msgspec

from midstream_server.errors import ContinueUnsupported, FieldViolation, InvalidRequest
from midstream_server.model import (
    Blob,
    JsonSchemaFormat,
    JsonValue,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
)
from midstream_server.upstreams.json_text import decode_json

_PART_NAMES = {Text: "text", Blob: "blob", Reasoning: "reasoning", ToolCall: "tool_call", ToolResult: "tool_result"}


def refuse_part(path: str, part: Part, why: str) -> Never:
    """Refuses a part with the path of its kind.

    Raises:
        InvalidRequest: always.
    """
    raise InvalidRequest(FieldViolation(f"{path}.{_PART_NAMES.get(type(part.content), 'refusal')}", why))


def raw_object(text: str, path: str) -> msgspec.Raw:
    """A JSON object byte for byte: the order of a schema's keys is the order in which a model writes them.

    Raises:
        InvalidRequest: the text is no JSON object.
    """
    raw = text.encode("utf-8", "replace")
    try:
        msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(FieldViolation(path, "is not a JSON object")) from error
    return msgspec.Raw(raw)


def described_schema(form: JsonSchemaFormat) -> msgspec.Raw:
    """The schema of an answer, with the format's description in it: for dialects that have no other place for one.

    Raises:
        InvalidRequest: the schema is no JSON object, or has a description of its own already.
    """
    path = "parameters.response_format.json_schema"
    schema = raw_object(form.schema, f"{path}.schema")
    if not form.description:
        return schema
    fields = msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    if "description" in fields:
        raise InvalidRequest(FieldViolation(f"{path}.description", "is set already by the schema itself"))
    return msgspec.Raw(msgspec.json.encode({"description": form.description, **fields}))


def prefix_text(prefix: Message) -> str:
    """The text of the beginning of an answer.

    Raises:
        ContinueUnsupported: it is not text alone.
    """
    texts = [part.content.text for part in prefix.parts if isinstance(part.content, Text)]
    if len(texts) != len(prefix.parts):
        raise ContinueUnsupported("only an answer of nothing but text can be continued here")
    return "".join(texts)


def own_state(part: Part, dialect: str) -> JsonValue:
    """The provider's state of a part as JSON, if it is of this dialect: no other endpoint can read it."""
    state = part.provider_state
    if state is None or state.dialect != dialect:
        return None
    try:
        return decode_json(state.data)
    except ValueError:
        return None


def merge_options(
    body: dict[str, object],
    options: Mapping[str, object],
    shape: frozenset[str],
    allowed: frozenset[str] | None = None,
) -> None:
    """Adds the caller's own fields, none of which may change the shape of the answer or contradict the request.

    `allowed` None: all others may be set.

    Raises:
        InvalidRequest: one does; names it.
    """
    violations = []
    for name in options:
        if name in shape:
            violations.append(
                FieldViolation(f'provider_options["{name}"]', "may not be set: it changes the shape of the answer")
            )
        elif allowed is not None and name not in allowed:
            violations.append(
                FieldViolation(f'provider_options["{name}"]', f"may not be set; there are {', '.join(sorted(allowed))}")
            )
        elif name in body:
            violations.append(
                FieldViolation(f'provider_options["{name}"]', "is set already by the request or its upstream")
            )
    if violations:
        raise InvalidRequest(*violations)
    body.update(options)


def made_call_id(response_id: str, number: int) -> str:
    """An id where the provider gives none, the same each time: a result must be able to name its call."""
    digest = hashlib.sha256(response_id.encode("utf-8", "replace")).hexdigest()[:16]
    return f"call_{digest}_{number}"
