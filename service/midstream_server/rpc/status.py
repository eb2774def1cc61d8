"""Errors as gRPC statuses: the one translation, of which an error's class is the table's row."""

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from midstream_server.codec.times import put_seconds
from midstream_server.errors import DOMAIN, Code, FieldViolation, InvalidRequest, MidstreamError, RunFailure

_DEFAULT_RETRY_SECONDS = 1.0
# A client may refuse trailing metadata of more than 8 KiB, and the status is in it twice: as a text, in which a byte
# may take three, and in base64.
_MAX_MESSAGE_BYTES = 512
_MAX_METADATA_BYTES = 1024
_MAX_VIOLATIONS_BYTES = 2048


def to_grpc_status(error: Exception, request_id: str) -> grpc.Status:
    """The status that an RPC ends with: its code, its message, and the details as trailing metadata."""
    return rpc_status.to_status(to_status(error, request_id))


def to_status(error: Exception, request_id: str) -> Status:
    """The google.rpc.Status of an error. Of an unexpected one it tells only the request's id."""
    if not isinstance(error, MidstreamError):
        return _unexpected(request_id)
    details: list[Message] = [
        ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_within(_metadata(error), _MAX_METADATA_BYTES))
    ]
    if isinstance(error, InvalidRequest):
        details.append(_bad_request(error))
    retry_seconds = _retry_seconds(error)
    if retry_seconds is not None:
        details.append(RetryInfo(retry_delay=_duration(retry_seconds)))
    return _status(error.code, error.message, details)


def _unexpected(request_id: str) -> Status:
    info = ErrorInfo(reason=MidstreamError.reason, domain=DOMAIN, metadata={"retryable": "false"})
    message = f"{MidstreamError.default_message}; request id {request_id}"
    return _status(Code.INTERNAL, message, [info, RequestInfo(request_id=request_id)])


def _status(code: Code, message: str, details: list[Message]) -> Status:
    status = Status(code=code, message=_shortened(message, _MAX_MESSAGE_BYTES))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _metadata(error: MidstreamError) -> dict[str, str]:
    metadata = {"retryable": "true" if error.retryable else "false"}
    if isinstance(error, RunFailure):
        metadata["upstream"] = error.upstream
        metadata["http_status"] = "" if error.http_status is None else str(error.http_status)
        metadata["provider_code"] = error.provider_code
    return {key: value for key, value in (metadata | error.metadata).items() if value}


def _within(metadata: dict[str, str], maximum: int) -> dict[str, str]:
    """The metadata with the longest values cut, so that all of it is within so many bytes."""
    kept: dict[str, str] = {}
    for key, value in sorted(metadata.items(), key=lambda entry: len(entry[1])):
        kept[key] = _shortened(value, maximum)
        maximum -= len(kept[key].encode())
    return kept


def _bad_request(error: InvalidRequest) -> BadRequest:
    bad_request = BadRequest()
    for violation in error.violations:
        bad_request.field_violations.append(_field_violation(violation))
        if bad_request.ByteSize() > _MAX_VIOLATIONS_BYTES:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _field_violation(violation: FieldViolation) -> BadRequest.FieldViolation:
    return BadRequest.FieldViolation(
        field=_shortened(violation.field, _MAX_MESSAGE_BYTES),
        description=_shortened(violation.description, _MAX_MESSAGE_BYTES),
    )


def _retry_seconds(error: MidstreamError) -> float | None:
    if error.retry_after_seconds is not None:
        return error.retry_after_seconds
    if error.retryable and error.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        return _DEFAULT_RETRY_SECONDS
    return None


def _duration(seconds: float) -> Duration:
    duration = Duration()
    put_seconds(duration, seconds)
    return duration


def _shortened(text: str, maximum: int) -> str:
    data = text.encode(errors="replace")
    if len(data) <= maximum:
        return data.decode()
    return data[: max(maximum - 3, 0)].decode(errors="ignore") + "…"
