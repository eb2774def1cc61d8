"""Requests of the contract from the arguments of the clients' methods."""

from collections.abc import Iterable, Mapping
from typing import TypedDict, cast

import uuid_utils
from google.protobuf import json_format, struct_pb2

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client.enums import ConversationPolicy, MessageView, RunState
from midstream_client.messages import (
    DetachLike,
    Messages,
    Seconds,
    ToolChoiceLike,
    ToolLike,
    to_detach_policy,
    to_duration,
    to_messages,
    to_tool,
    to_tool_choice,
)

DEFAULT_GRACE_SECONDS = 10.0


class GenerateOptions(TypedDict, total=False):
    """What `generate` takes besides the model and the messages. None is the default of each.

    Attributes:
        run_id: The run's id. Default: a new UUIDv7. A repeat with the same id and request follows the same run.
        system: Text of a system message in front of the others.
        tools: What the model may call.
        tool_choice: Whether it must.
        parameters: How to sample: a GenerationParameters, or its fields.
        on_detach: What happens when nobody follows the run any more. Default: GRACE of 10 s, so that a lost connection
            can be resumed; leaving the stream stops the run at once all the same.
        limits: The caller's limits: a RunLimits, or its fields with seconds.
        conversation_id: The conversation that the run belongs to.
        on_conflict: What to do if other runs of the conversation are live.
        continue_from: The id of a run whose partial message the model is to go on with.
        parent_run_id: The run that caused this one.
        labels: Recorded with the run.
        retention: How long the run is kept after its end.
        provider_options: Added to the upstream's request as they are.
        timeout: Seconds from entering the stream until DeadlineExceeded, calls that resume it included.
    """

    run_id: str | None
    system: str | None
    tools: Iterable[ToolLike] | None
    tool_choice: ToolChoiceLike | None
    parameters: generation_service_pb2.GenerationParameters | Mapping[str, object] | None
    on_detach: DetachLike | None
    limits: run_pb2.RunLimits | Mapping[str, Seconds] | None
    conversation_id: str | None
    on_conflict: ConversationPolicy | None
    continue_from: str | None
    parent_run_id: str | None
    labels: Mapping[str, str] | None
    retention: Seconds | None
    provider_options: Mapping[str, object] | None
    timeout: float | None


class ListFilters(TypedDict, total=False):
    """Which runs to list.

    Attributes:
        state: Only in this state.
        conversation_id: Only of this conversation.
        parent_run_id: Only children of this run.
        labels: Only with all of these labels.
        page_size: Runs per call, at most 500. All pages are read either way.
    """

    state: RunState | None
    conversation_id: str
    parent_run_id: str
    labels: Mapping[str, str] | None
    page_size: int


def generate_request(
    model: str, messages: Messages, options: GenerateOptions
) -> generation_service_pb2.GenerateRequest:
    """The request of `generate`.

    Raises:
        TypeError: An option that does not exist.
        ValueError: A value that has no form in the contract.
    """
    if unknown := set(options) - set(GenerateOptions.__annotations__):
        raise TypeError(f"generate() got unexpected options: {', '.join(sorted(unknown))}")
    request = generation_service_pb2.GenerateRequest(
        run_id=options.get("run_id") or str(uuid_utils.uuid7()),
        model=model,
        messages=to_messages(messages, system_text=options.get("system")),
        tools=[to_tool(each) for each in options.get("tools") or ()],
        conversation_id=options.get("conversation_id") or "",
        on_conflict=_policy(options.get("on_conflict")),
        continue_from=options.get("continue_from") or "",
        parent_run_id=options.get("parent_run_id") or "",
        labels=options.get("labels") or {},
    )
    _add_messages(request, options)
    return request


def _add_messages(request: generation_service_pb2.GenerateRequest, options: GenerateOptions) -> None:
    """Sets the fields that are absent by default."""
    on_detach = options.get("on_detach")
    request.on_detach.CopyFrom(to_detach_policy(DEFAULT_GRACE_SECONDS if on_detach is None else on_detach))
    if (tool_choice := options.get("tool_choice")) is not None:
        request.tool_choice.CopyFrom(to_tool_choice(tool_choice))
    if (parameters := options.get("parameters")) is not None:
        request.parameters.CopyFrom(_parameters(parameters))
    if (limits := options.get("limits")) is not None:
        request.limits.CopyFrom(_limits(limits))
    if (retention := options.get("retention")) is not None:
        request.retention.CopyFrom(to_duration(retention))
    if (provider_options := options.get("provider_options")) is not None:
        request.provider_options.CopyFrom(json_format.ParseDict(dict(provider_options), struct_pb2.Struct()))


def watch_request(
    run_id: str, *, after_sequence: int | None, from_snapshot: bool, claim: bool
) -> generation_service_pb2.WatchRunRequest:
    """The request of `watch`.

    Raises:
        ValueError: Both ways to begin are given.
    """
    if from_snapshot and after_sequence is not None:
        raise ValueError("a watch begins after a sequence or from a snapshot, not both")
    request = generation_service_pb2.WatchRunRequest(run_id=run_id, claim=claim)
    if from_snapshot:
        request.from_snapshot = True
    elif after_sequence is not None:
        request.after_sequence = after_sequence
    return request


def cancel_request(run_id: str, reason: str, wait: float | None) -> generation_service_pb2.CancelRequest:
    """The request of `cancel`."""
    request = generation_service_pb2.CancelRequest(run_id=run_id, reason=reason)
    if wait is not None:
        request.wait.CopyFrom(to_duration(wait))
    return request


def get_request(run_id: str, view: MessageView, max_wait: float | None) -> generation_service_pb2.GetRunRequest:
    """The request of `get`; `max_wait` None does not wait."""
    request = generation_service_pb2.GetRunRequest(run_id=run_id)
    request.message_view = generation_service_pb2.MessageView.ValueType(view)
    if max_wait is not None:
        request.wait_until_finished = True
        request.max_wait.CopyFrom(to_duration(max_wait))
    return request


def list_request(filters: ListFilters, page_token: str) -> generation_service_pb2.ListRunsRequest:
    """The request of a page of `list`.

    Raises:
        TypeError: A filter that does not exist.
    """
    if unknown := set(filters) - set(ListFilters.__annotations__):
        raise TypeError(f"list() got unexpected filters: {', '.join(sorted(unknown))}")
    return generation_service_pb2.ListRunsRequest(
        page_size=filters.get("page_size", 0),
        page_token=page_token,
        state=run_pb2.RunState.ValueType(filters.get("state") or RunState.UNSPECIFIED),
        conversation_id=filters.get("conversation_id", ""),
        parent_run_id=filters.get("parent_run_id", ""),
        labels=filters.get("labels") or {},
    )


def resume_seconds_of(request: generation_service_pb2.GenerateRequest) -> float:
    """How long a lost connection is worth resuming: the grace, where there is one."""
    if request.on_detach.action == run_pb2.DetachPolicy.ACTION_GRACE:
        return request.on_detach.grace.ToNanoseconds() / 1e9
    return DEFAULT_GRACE_SECONDS


def _policy(policy: ConversationPolicy | None) -> run_pb2.ConversationPolicy.ValueType:
    return run_pb2.ConversationPolicy.ValueType(policy or ConversationPolicy.UNSPECIFIED)


def _parameters(
    parameters: generation_service_pb2.GenerationParameters | Mapping[str, object],
) -> generation_service_pb2.GenerationParameters:
    if isinstance(parameters, generation_service_pb2.GenerationParameters):
        return parameters
    try:
        return json_format.ParseDict(dict(parameters), generation_service_pb2.GenerationParameters())
    except json_format.ParseError as error:
        raise ValueError(f"parameters: {error}") from None


def _limits(limits: run_pb2.RunLimits | Mapping[str, Seconds]) -> run_pb2.RunLimits:
    if isinstance(limits, run_pb2.RunLimits):
        return limits
    made = run_pb2.RunLimits()
    for name, value in limits.items():
        match name:
            case "first_token" | "idle" | "total" | "queue":
                getattr(made, name).CopyFrom(to_duration(value))
            case "output_tokens":
                made.output_tokens = cast("int", value)
            case _:
                raise ValueError(f"limits: there is no {name!r}")
    return made
