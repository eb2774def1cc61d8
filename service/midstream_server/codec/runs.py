"""Runs, their usage and their errors. `put_` fills a wire message, `get_` makes the value."""

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from midstream.v1 import run_pb2 as wire
from midstream_server.codec.messages import get_message, put_message
from midstream_server.codec.times import get_time, put_time
from midstream_server.errors import DOMAIN, RUN_FAILURES, RunInternalError
from midstream_server.model import (
    CancelReason,
    CancelReport,
    FinishReason,
    Instant,
    Run,
    RunError,
    RunState,
    TokenCount,
    Usage,
    UsageSource,
)


def put_run(target: wire.Run, run: Run) -> None:
    """Fills a Run."""
    target.run_id = run.run_id
    _put_ending(target, run)
    if run.message is not None:
        target.message.SetInParent()
        put_message(target.message, run.message)
    if run.usage is not None:
        put_usage(target.usage, run.usage)
    if run.settlement is not None:
        put_usage(target.settlement, run.settlement)
    target.last_sequence = run.last_sequence
    target.model = run.model
    target.upstream = run.upstream
    target.upstream_model = run.upstream_model
    target.upstream_request_id = run.upstream_request_id
    target.attempts = run.attempts
    target.labels.update(run.labels)
    target.conversation_id = run.conversation_id
    target.parent_run_id = run.parent_run_id
    target.continued_from = run.continued_from
    target.superseded_by_run_id = run.superseded_by_run_id
    target.superseded_run_ids.extend(run.superseded_run_ids)
    _put_times(target, run)
    target.provider_metadata.update(run.provider_metadata)


def _put_ending(target: wire.Run, run: Run) -> None:
    target.state = wire.RunState.ValueType(run.state)
    target.finish_reason = wire.FinishReason.ValueType(run.finish_reason or 0)
    target.raw_finish_reason = run.raw_finish_reason
    target.cancel_reason = wire.CancelReason.ValueType(run.cancel_reason or 0)
    if run.error is not None:
        _put_error(target.error, run.error)
    if run.cancel is not None:
        _put_cancel(target.cancel, run.cancel)


def _put_times(target: wire.Run, run: Run) -> None:
    put_time(target.create_time, run.create_time)
    if run.start_time is not None:
        put_time(target.start_time, run.start_time)
    if run.first_delta_time is not None:
        put_time(target.first_delta_time, run.first_delta_time)
    if run.end_time is not None:
        put_time(target.end_time, run.end_time)
    if run.expire_time is not None:
        put_time(target.expire_time, run.expire_time)


def get_run(source: wire.Run) -> Run:
    """A Run's value.

    Raises:
        ValueError: an enum has a number that this version does not know.
    """
    return Run(
        run_id=source.run_id,
        state=RunState(source.state),
        finish_reason=FinishReason(source.finish_reason) if source.finish_reason else None,
        raw_finish_reason=source.raw_finish_reason,
        cancel_reason=CancelReason(source.cancel_reason) if source.cancel_reason else None,
        error=_get_error(source.error) if source.HasField("error") else None,
        message=get_message(source.message) if source.HasField("message") else None,
        usage=get_usage(source.usage) if source.HasField("usage") else None,
        settlement=get_usage(source.settlement) if source.HasField("settlement") else None,
        cancel=_get_cancel(source.cancel) if source.HasField("cancel") else None,
        last_sequence=source.last_sequence,
        model=source.model,
        upstream=source.upstream,
        upstream_model=source.upstream_model,
        upstream_request_id=source.upstream_request_id,
        attempts=source.attempts,
        labels=dict(source.labels),
        conversation_id=source.conversation_id,
        parent_run_id=source.parent_run_id,
        continued_from=source.continued_from,
        superseded_by_run_id=source.superseded_by_run_id,
        superseded_run_ids=tuple(source.superseded_run_ids),
        create_time=get_time(source.create_time),
        start_time=_present(source.start_time, source.HasField("start_time")),
        first_delta_time=_present(source.first_delta_time, source.HasField("first_delta_time")),
        end_time=_present(source.end_time, source.HasField("end_time")),
        expire_time=_present(source.expire_time, source.HasField("expire_time")),
        provider_metadata=dict(source.provider_metadata),
    )


def _present(source: Timestamp, present: bool) -> Instant | None:
    return get_time(source) if present else None


def _put_cancel(target: wire.CancelReport, report: CancelReport) -> None:
    target.requested_by = report.requested_by
    target.reason = report.reason
    put_time(target.request_time, report.request_time)
    if report.upstream_close_time is not None:
        put_time(target.upstream_close_time, report.upstream_close_time)
    target.discarded_events = report.discarded_events
    target.discarded_bytes = report.discarded_bytes


def _get_cancel(source: wire.CancelReport) -> CancelReport:
    return CancelReport(
        requested_by=source.requested_by,
        reason=source.reason,
        request_time=get_time(source.request_time),
        upstream_close_time=_present(source.upstream_close_time, source.HasField("upstream_close_time")),
        discarded_events=source.discarded_events,
        discarded_bytes=source.discarded_bytes,
    )


# --- Errors ----------------------------------------------------------------------------------------------------------


def _put_error(target: Status, error: RunError) -> None:
    target.code = RUN_FAILURES.get(error.reason, RunInternalError).code
    target.message = error.message
    info = ErrorInfo(reason=error.reason, domain=DOMAIN, metadata={"retryable": "true" if error.retryable else "false"})
    if error.upstream:
        info.metadata["upstream"] = error.upstream
    if error.http_status is not None:
        info.metadata["http_status"] = str(error.http_status)
    if error.provider_code:
        info.metadata["provider_code"] = error.provider_code
    target.details.add().Pack(info, deterministic=True)


def _get_error(source: Status) -> RunError:
    info = ErrorInfo()
    for detail in source.details:
        if detail.Unpack(info):
            break
    http_status = info.metadata.get("http_status")
    return RunError(
        reason=info.reason or RunInternalError.reason,
        message=source.message,
        retryable=info.metadata.get("retryable") == "true",
        upstream=info.metadata.get("upstream", ""),
        http_status=int(http_status) if http_status else None,
        provider_code=info.metadata.get("provider_code", ""),
    )


# --- Usage -----------------------------------------------------------------------------------------------------------


def put_usage(target: wire.Usage, usage: Usage) -> None:
    """Fills a Usage; it is present afterwards, also with nothing known."""
    target.SetInParent()
    if usage.input is not None:
        _put_count(target.input, usage.input)
    if usage.cached_input is not None:
        _put_count(target.cached_input, usage.cached_input)
    if usage.cache_write_input is not None:
        _put_count(target.cache_write_input, usage.cache_write_input)
    if usage.output is not None:
        _put_count(target.output, usage.output)
    if usage.reasoning is not None:
        _put_count(target.reasoning, usage.reasoning)
    for name, count in usage.other.items():
        _put_count(target.other[name], count)


def get_usage(source: wire.Usage) -> Usage:
    """A Usage's value.

    Raises:
        ValueError: an enum has a number that this version does not know.
    """
    return Usage(
        input=_get_count(source.input) if source.HasField("input") else None,
        cached_input=_get_count(source.cached_input) if source.HasField("cached_input") else None,
        cache_write_input=_get_count(source.cache_write_input) if source.HasField("cache_write_input") else None,
        output=_get_count(source.output) if source.HasField("output") else None,
        reasoning=_get_count(source.reasoning) if source.HasField("reasoning") else None,
        other={name: _get_count(count) for name, count in source.other.items()},
    )


def _put_count(target: wire.TokenCount, count: TokenCount) -> None:
    target.value = count.value
    target.source = wire.UsageSource.ValueType(count.source)


def _get_count(source: wire.TokenCount) -> TokenCount:
    return TokenCount(value=source.value, source=UsageSource(source.source))
