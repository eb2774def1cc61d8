"""The real server in this process, over real sockets, with the simulator as its upstream, and raw stubs to call it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from flaky_store import FlakyStore
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import generation_service_pb2_grpc, run_pb2
from midstream_server import app
from midstream_server.app import Application, serving
from midstream_server.settings import LocalSettings, Settings, UpstreamSettings
from midstream_server.stores.memory import MemoryRunStore
from midstream_simulator import Finish, Gate, Role, Script, Simulator, Step, Text

PATIENCE_SECONDS = 10.0
"""For what takes milliseconds: a bound, no measurement."""
CALL_OPTIONS: tuple[tuple[str, int], ...] = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(frozen=True)
class Service:
    """`target` is what a client connects to; its models are `sim/…`."""

    target: str
    simulator: Simulator
    application: Application
    stub: "generation_service_pb2_grpc.GenerationServiceAsyncStub"
    channel: grpc.aio.Channel

    async def generate(self, model: str, **fields: Any) -> "Stream":
        """Starts a run and returns its stream, once the run exists."""
        stream = Stream(self.stub.Generate(request_for(model, **fields)))
        await stream.call.initial_metadata()
        return stream

    def watch(self, run_id: str, **fields: Any) -> "Stream":
        """Follows a run."""
        return Stream(self.stub.WatchRun(wire.WatchRunRequest(run_id=run_id, **fields)))

    async def cancel(self, run_id: str, **fields: Any) -> wire.CancelResponse:
        """Stops a run."""
        return await self.stub.Cancel(wire.CancelRequest(run_id=run_id, **fields))

    async def get(self, run_id: str, **fields: Any) -> run_pb2.Run:
        """Reads a run."""
        return await self.stub.GetRun(wire.GetRunRequest(run_id=run_id, **fields))

    async def finished(self, run_id: str) -> run_pb2.Run:
        """The run once it has ended."""
        run = await self.get(run_id, wait_until_finished=True)
        assert run.HasField("end_time"), f"{run_id} has not ended: {run_pb2.RunState.Name(run.state)}"
        return run


@asynccontextmanager
async def flaky_service(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Service, FlakyStore]]:
    """A server whose store a test can freeze, or make refuse."""
    store = FlakyStore(MemoryRunStore())
    monkeypatch.setattr(app, "make_store", lambda _settings: store)
    async with simulated_service() as service:
        try:
            yield service, store
        finally:
            store.heal()
            await store.thaw()


@asynccontextmanager
async def simulated_service(store: str = "memory:", **overrides: Any) -> AsyncIterator[Service]:
    """Serves until left."""
    async with Simulator() as simulator:
        settings = settings_for(simulator.base_url, store=store, **overrides)
        async with serving(settings) as application, opened(application.address) as (channel, stub):
            yield Service(application.address, simulator, application, stub, channel)


def settings_for(base_url: str, **overrides: Any) -> Settings:
    """Settings of a server on a free port with one upstream, `sim`."""
    upstream = UpstreamSettings(dialect="openai-chat", base_url=base_url)
    fields: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "store": "memory:",
        "local": LocalSettings(enabled=False),
        "upstreams": {"sim": upstream},
    }
    return Settings(**(fields | overrides))


@asynccontextmanager
async def opened(
    target: str, *options: tuple[str, int]
) -> AsyncIterator[tuple[grpc.aio.Channel, "generation_service_pb2_grpc.GenerationServiceAsyncStub"]]:
    """A channel with a connection of its own, and a stub."""
    async with grpc.aio.insecure_channel(target, options=(*CALL_OPTIONS, *options)) as channel:
        yield channel, generation_service_pb2_grpc.GenerationServiceStub(channel)


def request_for(model: str, prompt: str = "hi", **fields: Any) -> wire.GenerateRequest:
    """A request with one message."""
    message = run_pb2.Message(role=run_pb2.ROLE_USER, parts=[run_pb2.Part(text=run_pb2.Text(text=prompt))])
    return wire.GenerateRequest(model=f"sim/{model}", messages=[message], **fields)


def stepwise(*pieces: str) -> Script:
    """A script that says one piece after the other, parked before each at the gate of its name, then at `finish`."""
    steps: list[Step] = [step for piece in pieces for step in (Gate(piece), Text([piece]))]
    return [Role(), *steps, Gate("finish"), Finish()]


class Stream:
    """A stream that is read on demand; keeps what it has read."""

    def __init__(self, call: "grpc.aio.UnaryStreamCall[Any, run_pb2.RunEvent]") -> None:
        self.call = call
        self.events: list[run_pb2.RunEvent] = []
        self.text = ""
        """All text that came."""

    async def next(self) -> run_pb2.RunEvent:
        """The next event."""
        event = await self.call.read()
        assert event is not grpc.aio.EOF, f"the stream has ended: {self.events[-1:]}"
        return self._keep(event)

    async def until(self, is_wanted: Callable[[run_pb2.RunEvent], bool]) -> run_pb2.RunEvent:
        """Reads up to an event."""
        while not is_wanted(event := await self.next()):
            pass
        return event

    async def says(self, text: str) -> None:
        """Reads until the text has come."""
        while self.text != text:
            await self.next()

    async def to_end(self) -> run_pb2.Run:
        """Reads to the end, which must be a good one; the run."""
        await self.drain()
        return self.finished

    async def drain(self) -> None:
        """Reads what comes to the end."""
        while (event := await self.call.read()) is not grpc.aio.EOF:
            self._keep(event)

    async def error(self) -> grpc.aio.AioRpcError:
        """Reads to the end, which must be an error."""
        try:
            await self.drain()
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError(f"the stream ended well: {self.events[-1:]}")

    def _keep(self, event: object) -> run_pb2.RunEvent:
        assert isinstance(event, run_pb2.RunEvent)
        self.events.append(event)
        self.text += event.delta.text
        return event

    @property
    def finished(self) -> run_pb2.Run:
        """The run of the last event, which must be its RunFinished."""
        assert [event.WhichOneof("event") for event in self.events].count("finished") == 1
        assert self.events[-1].WhichOneof("event") == "finished"
        return self.events[-1].finished.run

    @property
    def run_id(self) -> str:
        """Of the run that started."""
        return self.events[0].started.run_id

    @property
    def log(self) -> list[run_pb2.RunEvent]:
        """What came, but for progress and snapshots, which are of no sequence."""
        return [event for event in self.events if event.WhichOneof("event") in ("started", "delta", "finished")]

    @property
    def sequences(self) -> list[int]:
        """The sequences that the events cover, one by one."""
        return [
            number for event in self.log for number in range(event.first_sequence or event.sequence, event.sequence + 1)
        ]


def text_of(run: run_pb2.Run) -> str:
    """The text of a run's message."""
    return "".join(part.text.text for part in run.message.parts)


def detail(error: Any, kind: type[Message]) -> Any:
    """The detail of this type, of which an error has exactly one; an empty one if it has none."""
    status = rpc_status.from_call(error)
    found = [each for each in (status.details if status else ()) if each.Is(kind.DESCRIPTOR)]
    assert len(found) <= 1
    message = kind()
    for each in found:
        each.Unpack(message)
    return message


def reason(error: Any) -> str:
    """The ErrorInfo's reason."""
    info = detail(error, error_details_pb2.ErrorInfo)
    assert info.domain == "midstream.v1"
    return str(info.reason)


def wrong_fields(error: Any) -> Sequence[str]:
    """The fields of BadRequest."""
    return [each.field for each in detail(error, error_details_pb2.BadRequest).field_violations]


async def refused(call: Any) -> grpc.aio.AioRpcError:
    """The error that a call, unary or stream, ends with."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            if hasattr(call, "read"):
                while await call.read() is not grpc.aio.EOF:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call ended well")
