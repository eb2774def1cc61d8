"""Requests from bytes to values, checked; and the answers that are not an event or a run, from values to bytes."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as WireMessage
from google.protobuf.struct_pb2 import Struct, Value

from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_server.codec import encode_run
from midstream_server.codec.events import get_detach_policy, get_limits
from midstream_server.codec.messages import get_message
from midstream_server.codec.times import get_seconds
from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import (
    CancelOutcome,
    ConversationPolicy,
    GenerationParameters,
    Instant,
    JsonObjectFormat,
    JsonSchemaFormat,
    JsonValue,
    MessageView,
    ModelInfo,
    Prompt,
    ReasoningEffort,
    ReasoningParameters,
    ResponseFormat,
    Run,
    RunSpec,
    RunState,
    Tool,
    ToolChoice,
    ToolChoiceMode,
)
from midstream_server.rpc.malformed import find_malformed
from midstream_server.rpc.page_token import RunFilter, decode_page_token, encode_page_token
from midstream_server.rpc.validate import (
    MAX_WAIT_SECONDS,
    check_cancel,
    check_delete,
    check_generate,
    check_get,
    check_list,
    check_watch,
)

_FINGERPRINT_VERSION = "1:"
_MAX_REQUEST_BYTES = 4 * 1024 * 1024
_MAX_PAGE_BYTES = 3 * 1024 * 1024
_DEFAULT_CANCEL_WAIT_SECONDS = 5.0
_DEFAULT_PAGE_SIZE = 50
_MAX_EXACT_INTEGER = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What to start, and the fingerprint by which a repeat is known."""

    spec: RunSpec
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSpec:
    """Which run to follow, and from where."""

    run_id: str
    after_sequence: int
    from_snapshot: bool
    claim: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSpec:
    """Which run to stop, in whose words, and how long to wait for the ending."""

    run_id: str
    text: str
    wait_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSpec:
    """Which run to return and how. `wait_seconds` None: as it is now."""

    run_id: str
    view: MessageView
    wait_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSpec:
    """A page: at most `limit` runs, after the run with the key `before`."""

    limit: int
    before: tuple[Instant, str] | None
    filter: RunFilter


# --- Requests --------------------------------------------------------------------------------------------------------


def generate_spec(raw: bytes, *, new_run_id: Callable[[], str], default_retention_seconds: float) -> StartRequest:
    """A GenerateRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    request = _parse(service_wire.GenerateRequest, raw)
    check_generate(request)
    run_id = request.run_id or new_run_id()
    fingerprint = _fingerprint(request)
    spec = RunSpec(
        run_id=run_id,
        model=request.model,
        prompt=_prompt(request),
        on_detach=get_detach_policy(request.on_detach),
        limits=get_limits(request.limits),
        conversation_id=request.conversation_id,
        on_conflict=ConversationPolicy(request.on_conflict or ConversationPolicy.ALLOW),
        continue_from=request.continue_from,
        parent_run_id=request.parent_run_id,
        labels=dict(request.labels),
        retention_seconds=_seconds_or(request.retention, request.HasField("retention"), default_retention_seconds),
    )
    return StartRequest(spec=spec, fingerprint=fingerprint)


def watch_spec(raw: bytes) -> WatchSpec:
    """A WatchRunRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    request = _parse(service_wire.WatchRunRequest, raw)
    check_watch(request)
    return WatchSpec(
        run_id=request.run_id,
        after_sequence=request.after_sequence,
        from_snapshot=request.from_snapshot,
        claim=request.claim,
    )


def cancel_spec(raw: bytes) -> CancelSpec:
    """A CancelRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    request = _parse(service_wire.CancelRequest, raw)
    check_cancel(request)
    wait_seconds = _seconds_or(request.wait, request.HasField("wait"), _DEFAULT_CANCEL_WAIT_SECONDS)
    return CancelSpec(run_id=request.run_id, text=request.reason, wait_seconds=wait_seconds)


def get_spec(raw: bytes) -> GetSpec:
    """A GetRunRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    request = _parse(service_wire.GetRunRequest, raw)
    check_get(request)
    wait_seconds = _seconds_or(request.max_wait, request.HasField("max_wait"), MAX_WAIT_SECONDS)
    return GetSpec(
        run_id=request.run_id,
        view=MessageView(request.message_view or MessageView.AS_STREAMED),
        wait_seconds=wait_seconds if request.wait_until_finished else None,
    )


def list_spec(raw: bytes) -> ListSpec:
    """A ListRunsRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    request = _parse(service_wire.ListRunsRequest, raw)
    check_list(request)
    run_filter = RunFilter(
        state=RunState(request.state) if request.state else None,
        conversation_id=request.conversation_id,
        parent_run_id=request.parent_run_id,
        labels=dict(request.labels),
    )
    return ListSpec(
        limit=request.page_size or _DEFAULT_PAGE_SIZE,
        before=decode_page_token(request.page_token, run_filter) if request.page_token else None,
        filter=run_filter,
    )


def delete_spec(raw: bytes) -> str:
    """The run_id of a DeleteRunRequest.

    Raises:
        InvalidRequest: with all that is wrong.
    """
    request = _parse(service_wire.DeleteRunRequest, raw)
    check_delete(request)
    return request.run_id


def list_models(raw: bytes) -> None:
    """Checks a ListModelsRequest.

    Raises:
        InvalidRequest: it does not decode.
    """
    _parse(service_wire.ListModelsRequest, raw)


_Request = TypeVar("_Request", bound=WireMessage)


def _parse(kind: type[_Request], raw: bytes) -> _Request:
    if len(raw) > _MAX_REQUEST_BYTES:
        raise InvalidRequest(FieldViolation("", f"the request has more than {_MAX_REQUEST_BYTES} bytes"))
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise InvalidRequest(find_malformed(raw, kind)) from None


def _fingerprint(request: service_wire.GenerateRequest) -> str:
    request.run_id = ""
    request.DiscardUnknownFields()
    return _FINGERPRINT_VERSION + hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


def _seconds_or(value: Duration, present: bool, default: float) -> float:
    return get_seconds(value) if present else default


# --- The prompt ------------------------------------------------------------------------------------------------------


def _prompt(request: service_wire.GenerateRequest) -> Prompt:
    for message in request.messages:
        _forget_states(message.parts)
    mode = ToolChoiceMode(request.tool_choice.mode or ToolChoiceMode.AUTO)
    return Prompt(
        messages=tuple(get_message(message) for message in request.messages),
        tools=tuple(_tool(tool) for tool in request.tools),
        tool_choice=ToolChoice(mode=mode, tool_name=request.tool_choice.tool_name),
        parameters=_parameters(request.parameters),
        provider_options=_json_object(request.provider_options),
    )


def _forget_states(parts: Iterable[wire.Part]) -> None:
    # The contract does not read them, so that a later version's are no error either.
    for part in parts:
        part.ClearField("state")
        if part.HasField("tool_result"):
            _forget_states(part.tool_result.parts)


def _tool(tool: service_wire.Tool) -> Tool:
    return Tool(
        name=tool.name,
        description=tool.description,
        parameters_schema=tool.parameters_schema,
        strict=tool.strict if tool.HasField("strict") else None,
    )


def _parameters(source: service_wire.GenerationParameters) -> GenerationParameters:
    return GenerationParameters(
        max_output_tokens=source.max_output_tokens if source.HasField("max_output_tokens") else None,
        temperature=source.temperature if source.HasField("temperature") else None,
        top_p=source.top_p if source.HasField("top_p") else None,
        top_k=source.top_k if source.HasField("top_k") else None,
        seed=source.seed if source.HasField("seed") else None,
        presence_penalty=source.presence_penalty if source.HasField("presence_penalty") else None,
        frequency_penalty=source.frequency_penalty if source.HasField("frequency_penalty") else None,
        stop=tuple(source.stop),
        parallel_tool_calls=source.parallel_tool_calls if source.HasField("parallel_tool_calls") else None,
        logprobs=source.logprobs if source.HasField("logprobs") else None,
        top_logprobs=source.top_logprobs if source.HasField("top_logprobs") else None,
        response_format=_response_format(source.response_format),
        reasoning=_reasoning(source.reasoning) if source.HasField("reasoning") else None,
    )


def _response_format(source: service_wire.ResponseFormat) -> ResponseFormat | None:
    match source.WhichOneof("format"):
        case "json_object":
            return JsonObjectFormat()
        case "json_schema":
            schema = source.json_schema
            strict = schema.strict if schema.HasField("strict") else None
            return JsonSchemaFormat(
                name=schema.name, schema=schema.schema, description=schema.description, strict=strict
            )
        case _:
            return None


def _reasoning(source: service_wire.GenerationParameters.Reasoning) -> ReasoningParameters:
    return ReasoningParameters(
        effort=ReasoningEffort(source.effort) if source.effort else None,
        budget_tokens=source.budget_tokens if source.HasField("budget_tokens") else None,
        include=source.include if source.HasField("include") else None,
    )


def _json_object(source: Struct) -> dict[str, JsonValue]:
    return {key: _json_value(value) for key, value in source.fields.items()}


def _json_value(value: Value) -> JsonValue:
    match value.WhichOneof("kind"):
        case "number_value":
            return _json_number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _json_object(value.struct_value)
        case "list_value":
            return [_json_value(each) for each in value.list_value.values]
        case _:
            return None


def _json_number(number: float) -> int | float:
    # A Struct has only doubles; providers want integers as integers.
    return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT_INTEGER else number


# --- Responses -------------------------------------------------------------------------------------------------------


def cancel_response(outcome: CancelOutcome, run: Run) -> bytes:
    """A CancelResponse."""
    response = service_wire.CancelResponse()
    response.outcome = service_wire.CancelResponse.Outcome.ValueType(outcome)
    response.run.MergeFromString(encode_run(run))
    return response.SerializeToString()


def list_response(runs: Sequence[Run], next_key: tuple[Instant, str] | None, run_filter: RunFilter) -> bytes:
    """A ListRunsResponse. `next_key`: of the last run, if more follow.

    A page that would not fit into a client's default limit of 4 MiB is cut, and goes on with the next token.
    """
    response = service_wire.ListRunsResponse()
    size = 0
    for index, run in enumerate(runs):
        data = encode_run(replace(run, message=None))
        size += len(data)
        if index and size > _MAX_PAGE_BYTES:
            next_key = (runs[index - 1].create_time, runs[index - 1].run_id)
            break
        response.runs.add().MergeFromString(data)
    if next_key is not None:
        response.next_page_token = encode_page_token(next_key, run_filter)
    return response.SerializeToString()


def models_response(models: Sequence[ModelInfo], unreachable: Sequence[str]) -> bytes:
    """A ListModelsResponse."""
    response = service_wire.ListModelsResponse(unreachable_upstreams=unreachable)
    for model in models:
        response.models.add(
            name=model.name,
            upstream=model.upstream,
            dialect=model.dialect,
            route=model.route,
            supports_continue=model.supports_continue,
        )
    return response.SerializeToString()
