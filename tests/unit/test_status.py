"""Errors as gRPC statuses."""

from collections.abc import Iterator
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RequestInfo, RetryInfo
from google.rpc.status_pb2 import Status

from midstream_server.errors import (
    ConversationBusy,
    CursorAhead,
    Draining,
    FieldViolation,
    InvalidRequest,
    MidstreamError,
    RunFailure,
    RunNotFound,
    SlowReader,
    TooManyRuns,
    UpstreamRateLimited,
)
from midstream_server.rpc.status import to_grpc_status, to_status


def _subclasses(kind: type[MidstreamError]) -> Iterator[type[MidstreamError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


ERRORS = [MidstreamError, *_subclasses(MidstreamError)]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_with_one_error_info(kind: type[MidstreamError]):
    """Code, message, reason, domain and whether to retry: all of the class, for every class there is."""
    error = InvalidRequest(FieldViolation("model", "is required")) if kind is InvalidRequest else kind()

    status = to_status(error, "request-1")

    info = _only(status, ErrorInfo)
    assert status.code == kind.code
    assert status.message == error.message
    assert (info.reason, info.domain) == (kind.reason, "midstream.v1")
    assert info.metadata["retryable"] == ("true" if kind.retryable else "false")


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_is_ready_for_callers(kind: type[MidstreamError]):
    """A reason in capitals, a code that gRPC knows, and a message without a full stop or a class's name."""
    assert kind.reason.replace("_", "").isalpha()
    assert kind.reason.isupper()
    assert kind.code in {code.value[0] for code in grpc.StatusCode}
    assert kind.default_message
    assert kind.__name__ not in kind.default_message


def test_a_retry_is_told_when_to_come():
    """RetryInfo holds what the error says, to the nanosecond."""
    status = to_status(Draining(retry_after_seconds=2.5), "request-1")

    assert _only(status, RetryInfo).retry_delay.ToNanoseconds() == 2_500_000_000


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_what_is_busy_or_away_always_says_when_to_retry(kind: type[MidstreamError]):
    """UNAVAILABLE and RESOURCE_EXHAUSTED that may pass carry a RetryInfo; nothing else does by itself."""
    status = to_status(kind(), "request-1")

    expected = kind.retryable and kind.code.name in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
    assert len(_all(status, RetryInfo)) == int(expected)


def test_zero_seconds_are_told_too():
    """At once is an answer."""
    assert _only(to_status(TooManyRuns(retry_after_seconds=0.0), "r"), RetryInfo).retry_delay.ToNanoseconds() == 0


def test_a_wrong_request_names_its_fields():
    """Every violation is in a BadRequest, in order."""
    error = InvalidRequest(FieldViolation("model", "is required"), FieldViolation('labels["ü"]', "is too long"))

    bad_request = _only(to_status(error, "request-1"), BadRequest)

    assert [(each.field, each.description) for each in bad_request.field_violations] == [
        ("model", "is required"),
        ('labels["ü"]', "is too long"),
    ]


def test_the_metadata_of_an_error_is_passed_on():
    """A reader that lost its place is told how far it was."""
    info = _only(to_status(SlowReader(metadata={"last_sequence": "7"}), "request-1"), ErrorInfo)

    assert info.metadata == {"last_sequence": "7", "retryable": "true"}


def test_a_failure_of_an_upstream_names_it():
    """The fixed keys of a run's error serve here too; what is not known is absent."""
    known = _only(
        to_status(UpstreamRateLimited(upstream="openai", http_status=429, provider_code="slow"), "r"), ErrorInfo
    )
    unknown = _only(to_status(RunFailure(), "r"), ErrorInfo)

    assert known.metadata == {"upstream": "openai", "http_status": "429", "provider_code": "slow", "retryable": "true"}
    assert unknown.metadata == {"retryable": "false"}


def test_an_unexpected_error_tells_only_the_requests_id():
    """What a bug says may hold a prompt or a key: it stays in our log."""
    status = to_status(KeyError("sk-secret prompt"), "request-1")

    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.message == "internal error; request id request-1"
    assert _only(status, ErrorInfo).reason == "INTERNAL"
    assert _only(status, RequestInfo).request_id == "request-1"
    assert b"secret" not in status.SerializeToString()


def test_a_grpc_status_carries_the_details_as_trailing_metadata():
    """What every client library reads."""
    status = to_grpc_status(RunNotFound(), "request-1")

    assert status.code is grpc.StatusCode.NOT_FOUND
    assert status.details == "no such run"
    assert (
        dict(status.trailing_metadata)["grpc-status-details-bin"] == to_status(RunNotFound(), "r").SerializeToString()
    )


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest(*(FieldViolation(f'labels["{"ü" * 64}"]', "ö" * 100) for _ in range(50))),
        InvalidRequest(FieldViolation("ü" * 5_000, "ö" * 5_000)),
        ConversationBusy(
            "ü" * 5_000, metadata={"run_ids": ",".join(["a" * 128] * 100), "conversation_id": "ü" * 5_000}
        ),
    ],
    ids=["many violations", "a long violation", "long metadata"],
)
def test_a_status_fits_into_what_clients_accept_of_metadata(error: MidstreamError):
    """8 KiB, or some clients lose the status altogether; text takes up to three bytes there, details four for three."""
    status = to_grpc_status(error, "request-1")

    details = _details(status)
    assert len(status.details.encode()) * 3 + len(details) * 4 / 3 < 7_500
    parsed = Status.FromString(details)
    assert _only(parsed, ErrorInfo).reason == error.reason
    if isinstance(error, InvalidRequest):
        assert _only(parsed, BadRequest).field_violations


def test_short_metadata_survives_beside_long():
    """Only the longest values are cut."""
    error = CursorAhead(metadata={"long": "x" * 5_000, "last_sequence": "7"})

    metadata = _only(to_status(error, "r"), ErrorInfo).metadata

    assert metadata["last_sequence"] == "7"
    assert metadata["long"].startswith("xxx")


Detail = TypeVar("Detail", bound=Message)


def _all(status: Status, kind: type[Detail]) -> list[Detail]:
    found: list[Detail] = []
    for packed in status.details:
        detail = kind()
        if packed.Unpack(detail):
            found.append(detail)
    return found


def _only(status: Status, kind: type[Detail]) -> Detail:
    [detail] = _all(status, kind)
    return detail


def _details(status: grpc.Status) -> bytes:
    details = dict(status.trailing_metadata)["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return details
