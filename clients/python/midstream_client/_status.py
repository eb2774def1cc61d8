"""From gRPC statuses, and from the error of a run, to errors of this package."""

import contextlib
from collections.abc import Iterable

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from midstream.v1 import run_pb2
from midstream_client.errors import (
    CALL_ERRORS,
    RUN_FAILURES,
    ConnectionLost,
    DeadlineExceeded,
    FieldViolation,
    MidstreamClientError,
    RunFailed,
)

DOMAIN = "midstream.v1"

_DETAILS_KEY = "grpc-status-details-bin"
_CODES = {each.value[0]: each for each in grpc.StatusCode}
_WITHOUT_REASON: dict[grpc.StatusCode | None, type[MidstreamClientError]] = {
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def error_of_call(error: grpc.RpcError) -> MidstreamClientError:
    """The typed error of a call that failed, of grpc or of grpc.aio."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    status = _rich_status(error.trailing_metadata() or ())
    code = error.code()
    info = _error_info(status)
    reason = info.reason if info else ""
    error_class = CALL_ERRORS.get(reason, MidstreamClientError) if reason else _WITHOUT_REASON.get(code)
    return (error_class or MidstreamClientError)(
        status.message or error.details() or "",
        reason=reason,
        code=code,
        metadata=info.metadata if info else None,
        field_violations=_field_violations(status),
        retry_after=_retry_after(status),
    )


def error_of_run(run: run_pb2.Run) -> RunFailed:
    """The typed error of a run that FAILED."""
    info = _error_info(run.error)
    reason = info.reason if info else ""
    error = RUN_FAILURES.get(reason, RunFailed)(
        run.error.message,
        reason=reason,
        code=_CODES.get(run.error.code),
        metadata=info.metadata if info else None,
        retry_after=_retry_after(run.error),
    )
    error.run = run
    error.run_id = run.run_id
    error.last_sequence = run.last_sequence
    error.partial = run.message if run.HasField("message") else None
    return error


def _rich_status(trailing_metadata: Iterable[tuple[str, str | bytes]]) -> status_pb2.Status:
    for key, value in trailing_metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            with contextlib.suppress(DecodeError):  # the code and the words are known all the same
                return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _error_info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo | None:
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if _unpacked(detail, info) and info.domain == DOMAIN:
            return info
    return None


def _field_violations(status: status_pb2.Status) -> tuple[FieldViolation, ...]:
    bad_request = error_details_pb2.BadRequest()
    for detail in status.details:
        if _unpacked(detail, bad_request):
            return tuple(FieldViolation(each.field, each.description) for each in bad_request.field_violations)
    return ()


def _retry_after(status: status_pb2.Status) -> float | None:
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if _unpacked(detail, retry):
            return retry.retry_delay.ToNanoseconds() / 1e9
    return None


def _unpacked(detail: any_pb2.Any, target: Message) -> bool:
    """Whether a detail is of the target's type, and could be read."""
    try:
        return detail.Unpack(target)
    except DecodeError:
        return False
