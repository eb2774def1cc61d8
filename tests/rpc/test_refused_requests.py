"""What is wrong with a request is told over the wire, by its field, and no upstream hears of it."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import text_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.engine.supervisor import Supervisor
from midstream_server.rpc.server import SERVICE
from request_rows import METHODS, REFUSED
from rpc.served import Service, detail, opened, reason, refused, request_for, simulated_service, wrong_fields

pytestmark = pytest.mark.asyncio(loop_scope="module")

RPC_OF = {name: name.removesuffix("Request") for name in METHODS}
STREAMING = ("Generate", "WatchRun")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service() -> AsyncIterator[Service]:
    """One server for all: nothing is ever started on it."""
    async with simulated_service() as made:
        yield made
        assert made.simulator.requests == []
        assert made.application.supervisor.live_runs == 0


def call(service: Service, request_name: str, raw: bytes) -> Any:
    """Sends bytes as they are to the method that takes this request."""
    path = f"/{SERVICE}/{RPC_OF[request_name]}"
    make: Callable[..., Any] = service.channel.unary_unary
    if RPC_OF[request_name] in STREAMING:
        make = service.channel.unary_stream
    return make(path)(raw)


def _row_request(field: str, text: str) -> tuple[str, Message]:
    owner = field.partition(".")[0]
    name = owner if owner in METHODS else "GenerateRequest"
    request = type(METHODS[name].valid)()
    request.CopyFrom(METHODS[name].valid)
    text_format.Merge(text, request)
    return name, request


@pytest.mark.parametrize(("field", "text", "wrong"), REFUSED, ids=[f"{row[0]}-{row[1][:60]}" for row in REFUSED])
async def test_a_wrong_field_is_refused_by_its_path(service: Service, field: str, text: str, wrong: list[str]):
    """INVALID_ARGUMENT with ErrorInfo and BadRequest, whose paths are those of the fields that are wrong."""
    error = await refused(call(service, *_serialized(*_row_request(field, text))))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "INVALID_REQUEST"
    assert list(wrong_fields(error)) == wrong


def _serialized(name: str, request: Message) -> tuple[str, bytes]:
    return name, request.SerializeToString()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("raw", [b"\x0a\x05ab", b"\xff\xff\xff", b"\x0b"], ids=["cut", "varint", "group"])
async def test_bytes_that_do_not_decode_are_the_callers_fault(service: Service, name: str, raw: bytes):
    """INVALID_ARGUMENT like any other, never an internal error."""
    error = await refused(call(service, name, raw))

    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("name", "raw", "field"),
    [
        ("GenerateRequest", b"\x0a\x02\xff\xfe", "run_id"),
        ("GenerateRequest", b"\x1a\x08\x12\x06\x0a\x04\x0a\x02\xff\xfe", "messages[0].parts[0].text.text"),
        ("CancelRequest", b"\x12\x02\xff\xfe", "reason"),
        ("GetRunRequest", b"\x0a\x02\xff\xfe", "run_id"),
        ("WatchRunRequest", b"\x0a\x02\xff\xfe", "run_id"),
    ],
)
async def test_invalid_utf8_is_refused_by_its_path(service: Service, name: str, raw: bytes, field: str):
    """Wherever it stands."""
    error = await refused(call(service, name, raw))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(wrong_fields(error)) == [field]


@pytest.mark.parametrize("name", METHODS)
async def test_a_request_of_5_mib_is_refused_in_our_words(service: Service, name: str):
    """INVALID_ARGUMENT that says what the limit is, not gRPC's own refusal."""
    raw = METHODS[name].valid.SerializeToString() + b"\xfa\x7f\x80\x80\xc0\x02" + bytes(5 * 1024 * 1024)

    error = await refused(call(service, name, raw))

    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "4194304 bytes" in str(error.details())


async def test_a_request_beyond_all_bounds_is_refused_by_grpc(service: Service):
    """Before it is in memory."""
    error = await refused(call(service, "GenerateRequest", bytes(9 * 1024 * 1024)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("model", ["nowhere/gpt", "no-alias", "local/smollm2"])
async def test_an_unknown_upstream_or_alias_is_not_found(service: Service, model: str):
    """NOT_FOUND, before anything is created: the id stays free."""
    request = request_for("m", run_id="run-1")
    request.model = model

    error = await refused(service.stub.Generate(request))
    unknown = await refused(service.stub.GetRun(wire.GetRunRequest(run_id="run-1")))

    assert (error.code(), reason(error)) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert reason(unknown) == "RUN_NOT_FOUND"


async def test_what_the_dialect_cannot_express_is_refused_by_its_field(service: Service):
    """No upstream is called to find out."""
    request = request_for("m")
    request.provider_options.update({"messages": []})

    error = await refused(service.stub.Generate(request))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(wrong_fields(error)) == ['provider_options["messages"]']


async def test_many_violations_fit_into_the_trailers(service: Service):
    """Clients refuse trailers of more than 8 KiB: what is told is cut, the code is right."""
    part = run_pb2.Part(blob=run_pb2.Blob(url="file:///" + "é" * 200))
    request = wire.GenerateRequest(
        model="sim/m", messages=[run_pb2.Message(role=run_pb2.ROLE_USER, parts=[part] * 2_000)]
    )

    error = await refused(service.stub.Generate(request))

    assert (error.code(), reason(error)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert wrong_fields(error)[0] == "messages[0].parts[0].blob.url"
    assert sum(len(name) + len(value) for name, value in error.trailing_metadata()) < 8_000


async def test_an_unknown_method_or_service_is_unimplemented(service: Service):
    """As gRPC has it."""
    for path in (f"/{SERVICE}/Regenerate", "/midstream.v2.GenerationService/Generate"):
        method: Any = service.channel.unary_unary(path)
        assert (await refused(method(b""))).code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["Generate", "WatchRun", "Cancel", "GetRun"])
async def test_an_unexpected_exception_tells_a_request_id_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
):
    """INTERNAL; the id is in our log, the exception's words are with nobody."""

    def broken(*_arguments: object, **_named: object) -> None:
        raise ValueError("the secret of the exception")

    for method in ("start", "watch", "cancel", "get"):
        monkeypatch.setattr(Supervisor, method, broken)
    async with simulated_service() as service, opened(service.target) as (_, stub):
        request = request_for("m", run_id="run-1") if name == "Generate" else None
        error = await refused(
            getattr(stub, name)(request or getattr(wire, f"{name}Request")(run_id="run-1"))  # a table of methods
        )

    request_id = detail(error, error_details_pb2.RequestInfo).request_id
    assert (error.code(), reason(error)) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert str(error.details()) == f"internal error; request id {request_id}"
    assert "secret" not in repr(error.trailing_metadata())
    assert request_id
    assert request_id in "".join(capsys.readouterr())
