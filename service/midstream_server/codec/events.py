"""What a RunEvent carries. `put_` fills a wire message, `get_` makes the value."""

from typing import assert_never

from midstream.v1 import run_pb2 as wire
from midstream_server.codec.messages import (
    get_annotation,
    get_logprob,
    get_provider_state,
    put_annotation,
    put_logprob,
    put_provider_state,
)
from midstream_server.codec.runs import get_run, get_usage, put_run, put_usage
from midstream_server.codec.times import get_seconds, get_time, put_seconds, put_time
from midstream_server.model import (
    BlobDelta,
    CancelReason,
    ConversationPolicy,
    DeltaPayload,
    DetachAction,
    DetachPolicy,
    EventPayload,
    MessageDelta,
    PartState,
    ReasoningDelta,
    RefusalDelta,
    RunFinished,
    RunLimits,
    RunProgress,
    RunSnapshot,
    RunStarted,
    RunState,
    TextDelta,
    ToolCallDelta,
)


def put_payload(target: wire.RunEvent, payload: EventPayload) -> None:
    """Fills the event of a RunEvent."""
    match payload:
        case MessageDelta():
            _put_delta(target.delta, payload)
        case RunStarted():
            _put_started(target.started, payload)
        case RunFinished():
            put_run(target.finished.run, payload.run)
        case RunSnapshot():
            put_run(target.snapshot.run, payload.run)
        case RunProgress():
            _put_progress(target.progress, payload)
        case _:
            assert_never(payload)


def get_payload(source: wire.RunEvent) -> EventPayload | None:
    """The event of a RunEvent; None for a kind that this version does not know.

    Raises:
        ValueError: an enum has a number that this version does not know.
    """
    match source.WhichOneof("event"):
        case "delta":
            return _get_delta(source.delta)
        case "started":
            return _get_started(source.started)
        case "finished":
            return RunFinished(run=get_run(source.finished.run))
        case "snapshot":
            return RunSnapshot(run=get_run(source.snapshot.run))
        case "progress":
            return _get_progress(source.progress)
        case None:
            return None


def _put_delta(target: wire.MessageDelta, delta: MessageDelta) -> None:
    target.part_index = delta.part_index
    target.offset = delta.offset
    payload = delta.payload
    if type(payload) is TextDelta:  # The hot path: a token.
        target.text = payload.text
    elif payload is not None:
        _put_delta_payload(target, payload)
    if delta.part_end is not None:
        target.part_end = wire.PartState.ValueType(delta.part_end)
    if delta.provider_state is not None:
        put_provider_state(target.provider_state, delta.provider_state)
    for annotation in delta.annotations:
        put_annotation(target.annotations.add(), annotation)
    for logprob in delta.logprobs:
        put_logprob(target.logprobs.add(), logprob)


def _get_delta(source: wire.MessageDelta) -> MessageDelta:
    return MessageDelta(
        part_index=source.part_index,
        offset=source.offset,
        payload=_get_delta_payload(source),
        part_end=PartState(source.part_end) if source.part_end else None,
        provider_state=get_provider_state(source.provider_state) if source.HasField("provider_state") else None,
        annotations=tuple(map(get_annotation, source.annotations)),
        logprobs=tuple(map(get_logprob, source.logprobs)),
    )


def _put_delta_payload(target: wire.MessageDelta, payload: DeltaPayload) -> None:
    match payload:
        case TextDelta():
            target.text = payload.text
        case ReasoningDelta():
            target.reasoning = payload.text
        case RefusalDelta():
            target.refusal = payload.text
        case ToolCallDelta():
            target.tool_call.id = payload.id
            target.tool_call.name = payload.name
            target.tool_call.arguments = payload.arguments
        case BlobDelta():
            target.blob.mime_type = payload.mime_type
            target.blob.data = payload.data
            target.blob.url = payload.url
            target.blob.file_id = payload.file_id
        case _:
            assert_never(payload)


def _get_delta_payload(source: wire.MessageDelta) -> DeltaPayload | None:
    match source.WhichOneof("payload"):
        case "text":
            return TextDelta(source.text)
        case "reasoning":
            return ReasoningDelta(source.reasoning)
        case "refusal":
            return RefusalDelta(source.refusal)
        case "tool_call":
            call = source.tool_call
            return ToolCallDelta(id=call.id, name=call.name, arguments=call.arguments)
        case "blob":
            blob = source.blob
            return BlobDelta(mime_type=blob.mime_type, data=blob.data, url=blob.url, file_id=blob.file_id)
        case None:
            return None


def _put_started(target: wire.RunStarted, started: RunStarted) -> None:
    target.run_id = started.run_id
    target.model = started.model
    if started.on_detach is not None:
        _put_detach_policy(target.on_detach, started.on_detach)
    if started.limits is not None:
        _put_limits(target.limits, started.limits)
    if started.retention_seconds is not None:
        put_seconds(target.retention, started.retention_seconds)
    target.conversation_id = started.conversation_id
    target.on_conflict = wire.ConversationPolicy.ValueType(started.on_conflict or 0)
    put_time(target.create_time, started.create_time)


def _get_started(source: wire.RunStarted) -> RunStarted:
    return RunStarted(
        run_id=source.run_id,
        model=source.model,
        on_detach=get_detach_policy(source.on_detach) if source.HasField("on_detach") else None,
        limits=get_limits(source.limits) if source.HasField("limits") else None,
        retention_seconds=get_seconds(source.retention) if source.HasField("retention") else None,
        conversation_id=source.conversation_id,
        on_conflict=ConversationPolicy(source.on_conflict) if source.on_conflict else None,
        create_time=get_time(source.create_time),
    )


def _put_detach_policy(target: wire.DetachPolicy, policy: DetachPolicy) -> None:
    target.action = wire.DetachPolicy.Action.ValueType(policy.action)
    if policy.grace_seconds:
        put_seconds(target.grace, policy.grace_seconds)


def get_detach_policy(source: wire.DetachPolicy) -> DetachPolicy:
    """A DetachPolicy's value; an absent action is CANCEL.

    Raises:
        ValueError: an enum has a number that this version does not know.
    """
    action = DetachAction(source.action or DetachAction.CANCEL)
    return DetachPolicy(action=action, grace_seconds=get_seconds(source.grace))


def _put_limits(target: wire.RunLimits, limits: RunLimits) -> None:
    target.SetInParent()
    if limits.first_token_seconds is not None:
        put_seconds(target.first_token, limits.first_token_seconds)
    if limits.idle_seconds is not None:
        put_seconds(target.idle, limits.idle_seconds)
    if limits.total_seconds is not None:
        put_seconds(target.total, limits.total_seconds)
    if limits.queue_seconds is not None:
        put_seconds(target.queue, limits.queue_seconds)
    if limits.output_tokens is not None:
        target.output_tokens = limits.output_tokens


def get_limits(source: wire.RunLimits) -> RunLimits:
    """A RunLimits' value; what is absent is None."""
    return RunLimits(
        first_token_seconds=get_seconds(source.first_token) if source.HasField("first_token") else None,
        idle_seconds=get_seconds(source.idle) if source.HasField("idle") else None,
        total_seconds=get_seconds(source.total) if source.HasField("total") else None,
        queue_seconds=get_seconds(source.queue) if source.HasField("queue") else None,
        output_tokens=source.output_tokens if source.HasField("output_tokens") else None,
    )


def _put_progress(target: wire.RunProgress, progress: RunProgress) -> None:
    target.state = wire.RunState.ValueType(progress.state)
    target.cancel_reason = wire.CancelReason.ValueType(progress.cancel_reason or 0)
    if progress.usage is not None:
        put_usage(target.usage, progress.usage)


def _get_progress(source: wire.RunProgress) -> RunProgress:
    return RunProgress(
        state=RunState(source.state),
        cancel_reason=CancelReason(source.cancel_reason) if source.cancel_reason else None,
        usage=get_usage(source.usage) if source.HasField("usage") else None,
    )
