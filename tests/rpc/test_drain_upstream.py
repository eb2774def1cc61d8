"""Runs at a provider that bills the whole answer: a stop answers at once, the rest is read for what it cost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from command_line import serving as serving_command
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.app import serving
from midstream_server.settings import UpstreamSettings
from midstream_simulator import Gate, Script, Simulator, Stall, Text, streamed
from rpc.dialect_service import CASES, DialectCase, dialect_service
from rpc.served import PATIENCE_SECONDS, Service, Stream, opened, request_for, settings_for, text_of

DRAIN = {"on_cancel": "drain"}


@asynccontextmanager
async def _service(profile: dict[str, Any], **settings: Any) -> AsyncIterator[Service]:
    async with Simulator() as simulator, _outlived(simulator, profile, **settings) as service:
        yield service


@asynccontextmanager
async def _outlived(simulator: Simulator, profile: dict[str, Any], **settings: Any) -> AsyncIterator[Service]:
    """A server that ends before its simulator."""
    upstream = UpstreamSettings.model_validate(
        {"dialect": "openai-chat", "base_url": simulator.base_url, "profile": DRAIN | profile}
    )
    made = settings_for(simulator.base_url, upstreams={"sim": upstream}, **settings)
    async with serving(made) as application, opened(application.address) as (channel, stub):
        yield Service(application.address, simulator, application, stub, channel)


async def _settled(service: Service, run_id: str = "run-1") -> run_pb2.Run:
    """The run, once its settlement is there."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not (run := await service.get(run_id)).HasField("settlement"):
            pass
    return run


def _gated(text: str) -> Script:
    return streamed(Text(["Hel"]), Gate("rest"), Text([text]))


async def _begun(service: Service, run_id: str = "run-1") -> Stream:
    stream = await service.generate("m", run_id=run_id)
    await stream.says("Hel")
    return stream


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
async def test_a_stop_answers_at_once_and_the_account_follows(case: DialectCase):
    """In every dialect: the partial is what was seen, nothing follows it, the settlement is the provider's account."""
    async with dialect_service(case, profile=DRAIN) as service:
        service.simulator.play("m", _gated("lo"))
        stream = await _begun(service)
        request = await service.simulator.received()

        answer = await service.cancel("run-1")
        sealed = await stream.to_end()
        request.release("rest")
        await request.over()
        run = await _settled(service)

        assert answer.outcome == wire.CancelResponse.OUTCOME_CANCELLED
        assert answer.run == sealed
        assert (sealed.state, text_of(sealed)) == (run_pb2.RUN_STATE_CANCELLED, "Hel")
        assert not sealed.HasField("settlement")
        assert not sealed.cancel.HasField("upstream_close_time")
        assert (run.settlement.output.value, run.settlement.output.source) == (2, run_pb2.USAGE_SOURCE_UPSTREAM_FINAL)
        assert run.settlement.input.source == run_pb2.USAGE_SOURCE_UPSTREAM_FINAL
        run.ClearField("settlement")
        assert run == sealed
        assert request.text_sent == "Hello"
        assert not request.interrupted


async def test_a_client_that_leaves_is_settled_too():
    """Nobody waits for it."""
    async with _service({}) as service:
        service.simulator.play("m", _gated("lo"))
        stream = await _begun(service)
        request = await service.simulator.received()

        stream.call.cancel()
        sealed = await service.finished("run-1")
        request.release("rest")
        run = await _settled(service)

        assert sealed.cancel_reason == run_pb2.CANCEL_REASON_CLIENT_GONE
        assert run.settlement.output.value == 2


async def test_a_drain_is_hung_up_on_after_its_time():
    """What the provider never said stays unknown."""
    async with _service({"drain_timeout": "50ms"}) as service:
        service.simulator.play("m", streamed(Text(["Hel"]), Stall()))
        await _begun(service)

        await service.cancel("run-1")
        request = await service.simulator.received()
        await request.closed()

        assert request.closed_by == "client"
        assert not (await service.get("run-1")).HasField("settlement")


async def test_a_drain_is_hung_up_on_after_its_tokens():
    """Four bytes are one, where the provider does not count."""
    async with _service({"drain_output_tokens": 10}) as service:
        service.simulator.play("m", streamed(Text(["Hel"]), Gate("rest"), Text(["x" * 41]), Stall()))
        await _begun(service)

        await service.cancel("run-1")
        request = await service.simulator.received()
        request.release("rest")
        await request.closed()

        assert request.interrupted
        assert request.closed_by == "client"


async def test_more_drains_than_may_be_hang_up():
    """The second stop closes its upstream, and says when."""
    async with _service({}, max_drains=1) as service:
        service.simulator.play("m", _gated("lo"))
        await _begun(service, "run-1")
        await _begun(service, "run-2")

        first = (await service.cancel("run-1")).run
        second = (await service.cancel("run-2")).run
        await (await service.simulator.received(2)).closed()
        (await service.simulator.received(1)).release("rest")

        assert (await _settled(service)).settlement.output.value == 2
        assert not first.cancel.HasField("upstream_close_time")
        assert second.cancel.HasField("upstream_close_time")
        assert not (await service.get("run-2")).HasField("settlement")


async def test_leaving_a_server_hangs_up_on_its_drains():
    """It waits for no account."""
    async with Simulator() as simulator, AsyncExitStack() as stack:
        simulator.play("m", streamed(Text(["Hel"]), Stall()))
        service = await stack.enter_async_context(_outlived(simulator, {}))
        await _begun(service)
        await service.cancel("run-1")
        request = await simulator.received()
        is_open = request.closed_ns is None

        async with asyncio.timeout(PATIENCE_SECONDS):
            await stack.aclose()
            await request.closed()

        assert is_open
        assert request.closed_by == "client"


async def test_sigterm_does_not_wait_for_drains(tmp_path: Path):
    """The drain time of the server is for live runs; there is none."""
    async with Simulator() as simulator:
        simulator.play("m", streamed(Text(["Hel"]), Stall()))
        config = tmp_path / "midstream.toml"
        config.write_text(
            "listen = '127.0.0.1:0'\nstore = 'memory:'\n"
            f"[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
            "profile = { on_cancel = 'drain', drain_timeout = '1h' }\n"
        )
        async with serving_command(config, "--drain-seconds", "600", "--no-local") as server:
            async with opened(server.address) as (_, stub):
                stream = Stream(stub.Generate(request_for("m", run_id="run-1")))
                await stream.says("Hel")
                await stub.Cancel(wire.CancelRequest(run_id="run-1"))
                await stream.to_end()
                server.process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    code = await server.process.wait()
            request = await simulator.received()
            await request.closed()

    assert code == 0
    assert request.closed_by == "client"
