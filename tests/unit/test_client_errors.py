"""A typed error for each reason of the contract, with everything that the server said."""

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from midstream.v1 import run_pb2
from midstream_client import enums
from midstream_client._status import error_of_call, error_of_run
from midstream_client.errors import (
    CALL_ERRORS,
    RUN_FAILURES,
    ConnectionLost,
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    MidstreamClientError,
    RunFailed,
    RunStoreUnavailable,
    StoreUnavailable,
    UpstreamRateLimited,
)
from midstream_server import errors as server_errors

NEVER_SENT = {"STORE_LOCKED", "INVALID_SETTINGS"}
"""A server that has these does not start."""


def packed(*details: Message) -> list[any_pb2.Any]:
    made = []
    for detail in details:
        made.append(any_pb2.Any())
        made[-1].Pack(detail)
    return made


def call_error(code: grpc.StatusCode, *details: Message, message: str = "words") -> MidstreamClientError:
    status = status_pb2.Status(code=code.value[0], message=message, details=packed(*details))
    metadata = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString())) if details else None
    return error_of_call(
        grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata or grpc.aio.Metadata(), details=message)
    )


def info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="midstream.v1", metadata=metadata)


def below(root: type[server_errors.MidstreamError]) -> Iterator[type[server_errors.MidstreamError]]:
    for each in root.__subclasses__():
        yield each
        yield from below(each)


@pytest.mark.parametrize(
    "server_error",
    [
        each
        for each in below(server_errors.MidstreamError)
        if not issubclass(each, server_errors.RunFailure) and each.reason not in NEVER_SENT
    ],
)
def test_every_reason_of_a_call_has_its_class(server_error: type[server_errors.MidstreamError]):
    """Named like the reason."""
    error = call_error(grpc.StatusCode.ABORTED, info(server_error.reason))

    assert type(error).__name__ == server_error.reason.title().replace("_", "")
    assert error.reason == server_error.reason


@pytest.mark.parametrize(
    "details",
    [
        b"\xff\xff",
        status_pb2.Status(
            details=[any_pb2.Any(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff\xff")]
        ).SerializeToString(),
    ],
    ids=["status", "detail"],
)
def test_a_damaged_status_is_still_an_error(details: bytes):
    """What something between has made of it cannot be read; the code and the words can."""
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", details))

    error = error_of_call(grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, "words"))

    assert isinstance(error, ConnectionLost)
    assert (error.code, str(error)) == (grpc.StatusCode.UNAVAILABLE, "CONNECTION_LOST: words")


def test_details_of_another_domain_are_not_ours():
    """Wherever they stand."""
    theirs = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain="example.com")

    assert call_error(grpc.StatusCode.NOT_FOUND, theirs).reason == ""
    assert isinstance(call_error(grpc.StatusCode.NOT_FOUND, theirs, info("INVALID_REQUEST")), InvalidRequest)


def test_every_reason_of_a_failed_run_has_its_class():
    """All are RunFailed."""
    assert set(RUN_FAILURES) == set(server_errors.RUN_FAILURES)
    assert not any(issubclass(each, RunFailed) for each in CALL_ERRORS.values())


def test_an_error_says_all_that_the_server_said():
    """Metadata, fields and when to retry."""
    error = call_error(
        grpc.StatusCode.INVALID_ARGUMENT,
        info("INVALID_REQUEST", limit="3"),
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="model", description="required")]
        ),
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000)),
    )

    assert isinstance(error, InvalidRequest)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.metadata == {"limit": "3"}
    assert error.field_violations == (FieldViolation("model", "required"),)
    assert error.retry_after == 1.5
    assert str(error) == "INVALID_REQUEST: words"


def test_an_unknown_reason_is_the_base_class():
    """A later server may have new ones."""
    error = call_error(grpc.StatusCode.NOT_FOUND, info("MOON_NOT_FOUND"))

    assert type(error) is MidstreamClientError
    assert error.reason == "MOON_NOT_FOUND"


def test_a_reason_of_somebody_else_is_not_ours():
    """Proxies and meshes send ErrorInfo too."""
    foreign = error_details_pb2.ErrorInfo(reason="RUN_NOT_FOUND", domain="mesh.example")

    assert type(call_error(grpc.StatusCode.NOT_FOUND, foreign)) is MidstreamClientError


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, ConnectionLost),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.UNAUTHENTICATED, MidstreamClientError),
    ],
)
def test_a_status_without_a_reason_is_told_by_its_code(code: grpc.StatusCode, expected: type[MidstreamClientError]):
    """What comes from the transport."""
    assert type(call_error(code)) is expected


def test_a_failed_run_is_an_error_with_its_partial():
    """By the reason in its details."""
    run = run_pb2.Run(
        run_id="r",
        last_sequence=7,
        error=status_pb2.Status(
            code=8, message="slow down", details=packed(info("UPSTREAM_RATE_LIMITED", retryable="true"))
        ),
        message=run_pb2.Message(parts=[run_pb2.Part(text=run_pb2.Text(text="so far"))]),
    )

    error = error_of_run(run)

    assert isinstance(error, UpstreamRateLimited)
    assert (error.run, error.run_id, error.last_sequence, error.partial) == (run, "r", 7, run.message)
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.retryable


def test_a_reason_that_both_have_is_caught_either_way():
    """As a failure of the run, and by its name."""
    run = run_pb2.Run(error=status_pb2.Status(details=packed(info("STORE_UNAVAILABLE"))))

    error = error_of_run(run)

    assert type(error) is RunStoreUnavailable
    assert isinstance(error, StoreUnavailable)


@pytest.mark.parametrize(
    ("ours", "prefix", "theirs"),
    [
        (enums.RunState, "RUN_STATE_", run_pb2.RunState),
        (enums.FinishReason, "FINISH_REASON_", run_pb2.FinishReason),
        (enums.CancelReason, "CANCEL_REASON_", run_pb2.CancelReason),
        (enums.PartState, "PART_STATE_", run_pb2.PartState),
        (enums.UsageSource, "USAGE_SOURCE_", run_pb2.UsageSource),
        (enums.ConversationPolicy, "CONVERSATION_POLICY_", run_pb2.ConversationPolicy),
        (enums.Role, "ROLE_", run_pb2.Role),
    ],
)
def test_the_enums_are_those_of_the_contract(ours, prefix, theirs):
    """Same names, same numbers; a number that is not known yet is UNSPECIFIED."""
    assert {prefix + each.name: each.value for each in ours} == dict(theirs.items())
    assert ours(99) is ours.UNSPECIFIED
