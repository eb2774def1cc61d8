"""What the request mappings of several dialects share."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Never

import msgspec

from midstream_server.errors import ContinueUnsupported, FieldViolation, InvalidRequest
from midstream_server.model import (
    Blob,
    GenerationParameters,
    JsonSchemaFormat,
    JsonValue,
    Message,
    Part,
    Reasoning,
    ReasoningParameters,
    Text,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
    ToolResult,
)
from midstream_server.upstreams.base import Profile
from midstream_server.upstreams.wire.json_text import decode_json

_PART_NAMES = {Text: "text", Blob: "blob", Reasoning: "reasoning", ToolCall: "tool_call", ToolResult: "tool_result"}


def refuse(path: str, why: str) -> Never:
    """Refuses a field.

    Raises:
        InvalidRequest: always.
    """
    raise InvalidRequest(FieldViolation(path, why))


def refuse_part(path: str, part: Part, why: str) -> Never:
    """Refuses a part with the path of its kind.

    Raises:
        InvalidRequest: always.
    """
    refuse(f"{path}.{_PART_NAMES.get(type(part.content), 'refusal')}", why)


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


def given_parameters(parameters: GenerationParameters) -> dict[str, object]:
    """Every parameter that was set, by its path; an effort as its word, the format of the answer as it is."""
    reasoning = parameters.reasoning or ReasoningParameters()
    values: dict[str, object] = {
        "max_output_tokens": parameters.max_output_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_k": parameters.top_k,
        "seed": parameters.seed,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "stop": list(parameters.stop) or None,
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "logprobs": parameters.logprobs,
        "top_logprobs": parameters.top_logprobs,
        "response_format": parameters.response_format,
        "reasoning.effort": None if reasoning.effort is None else reasoning.effort.name.lower(),
        "reasoning.budget_tokens": reasoning.budget_tokens,
        "reasoning.include": reasoning.include,
    }
    return {name: value for name, value in values.items() if value is not None}


def place_parameters(given: Mapping[str, object], names: Mapping[str, str]) -> dict[str, object]:
    """The parameters under the names of their fields.

    Raises:
        InvalidRequest: some have none; names each.
    """
    if missing := [parameter for parameter in given if not names.get(parameter)]:
        raise InvalidRequest(
            *(FieldViolation(f"parameters.{each}", "this model's endpoint has no such parameter") for each in missing)
        )
    return {names[parameter]: value for parameter, value in given.items()}


def require_tools(choice: ToolChoice) -> None:
    """For a request without tools.

    Raises:
        InvalidRequest: it wants one called.
    """
    if choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.TOOL):
        raise InvalidRequest(FieldViolation("tool_choice", "needs tools"))


def plain_texts(parts: Sequence[Part], path: str, why: str) -> list[str]:
    """The texts of parts that may be nothing else.

    Raises:
        InvalidRequest: one is; names it.
    """
    texts = []
    for index, part in enumerate(parts):
        if not isinstance(part.content, Text):
            refuse_part(f"{path}.parts[{index}]", part, why)
        texts.append(part.content.text)
    return texts


def failed_result(words: str) -> str:
    """The result of a tool that failed, for APIs that have no place for a failure: it says so in its first word."""
    return words if words.lower().startswith("error") else f"Error: {words}"


def prefill_text(prefix: Message, profile: Profile) -> str:
    """The text of the beginning of an answer, which goes to the endpoint as the last message.

    Raises:
        ContinueUnsupported: the endpoint does not go on with it, or it is not text alone.
    """
    if profile.continue_prefix != "assistant_prefill":
        raise ContinueUnsupported
    return prefix_text(prefix)


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
    shared: str = "",
) -> None:
    """Adds the caller's own fields, none of which may change the shape of the answer or contradict the request.

    `allowed` None: all others may be set. `shared` names an object that the request and the caller both add to.

    Raises:
        InvalidRequest: one does; names it.
    """
    violations = []
    fields = {name: value for name, value in options.items() if name != shared}
    for name in fields:
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
    body.update(fields)
    if shared in options:
        merge_object(body, shared, option_object(options[shared], f'provider_options["{shared}"]'))


def merge_object(
    body: dict[str, object],
    name: str,
    fields: Mapping[str, JsonValue],
    shape: frozenset[str] = frozenset(),
    path: str = "",
) -> None:
    """Adds the caller's fields to an object in the body, whose own come first.

    Raises:
        InvalidRequest: it has one already, or one is of `shape` and may not be set.
    """
    own = body.get(name)
    target: dict[str, object] = dict(own) if isinstance(own, dict) else {}
    path = path or f'provider_options["{name}"]'
    for field, value in fields.items():
        if field in shape or field in target:
            why = "may not be set: it changes the shape of the answer" if field in shape else "is set already"
            raise InvalidRequest(FieldViolation(f'{path}["{field}"]', why))
        target[field] = value
    body[name] = target


def option_object(value: object, path: str) -> dict[str, JsonValue]:
    """An option that must be an object.

    Raises:
        InvalidRequest: it is none.
    """
    if not isinstance(value, dict):
        raise InvalidRequest(FieldViolation(path, "must be an object"))
    return value


def made_call_id(response_id: str, number: int) -> str:
    """An id where the provider gives none, the same each time: a result must be able to name its call."""
    digest = hashlib.sha256(response_id.encode("utf-8", "replace")).hexdigest()[:16]
    return f"call_{digest}_{number}"
