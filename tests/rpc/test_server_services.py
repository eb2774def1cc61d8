"""What a platform team connects to a server: health, reflection, channelz."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from midstream_server.engine import housekeeping
from midstream_server.rpc.server import SERVICE
from rpc.served import PATIENCE_SECONDS, Service, flaky_service, opened, refused, request_for, simulated_service

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def _health(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


async def _status(channel: grpc.aio.Channel, service: str) -> int:
    return int((await _health(channel).Check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_health_is_told_per_service(service: Service):
    """Of ours, and of the server as a whole; NOT_FOUND of one that is not here."""
    assert await _status(service.channel, SERVICE) == SERVING
    assert await _status(service.channel, "") == SERVING
    error = await refused(_health(service.channel).Check(health_pb2.HealthCheckRequest(service="other.Service")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_of_an_unknown_service_stays_open(service: Service):
    """As grpc.health.v1 has it: it may come."""
    watch = _health(service.channel).Watch(health_pb2.HealthCheckRequest(service="other.Service"))

    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    assert not watch.done()
    watch.cancel()


async def test_a_watch_sees_the_drain_and_ends_with_the_server():
    """SERVING, NOT_SERVING, and the end, long before the grace is over; liveness stays as it is."""
    async with simulated_service() as service, opened(service.target) as (channel, _):
        watch = _health(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        alive = _health(channel).Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == (await alive.read()).status == SERVING

        await service.application.drain(60.0, asyncio.Event())
        assert (await watch.read()).status == NOT_SERVING
        assert await _status(channel, "") == SERVING
        async with asyncio.timeout(PATIENCE_SECONDS):
            await service.application.server.stop(10 * PATIENCE_SECONDS)

        for each in (watch, alive):
            assert (await refused(each)).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_store_that_is_away_makes_the_service_not_serving(monkeypatch: pytest.MonkeyPatch):
    """And serving again when it is back; liveness is not affected, starts are refused at once."""
    monkeypatch.setattr(housekeeping, "TICK_SECONDS", 0.02)
    async with flaky_service(monkeypatch) as (service, store), opened(service.target) as (channel, _):
        watch = _health(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        seen = [(await watch.read()).status]
        store.fail()
        await refused(service.stub.Generate(request_for("m", run_id="run-1")))
        seen.append((await watch.read()).status)
        assert await _status(channel, "") == SERVING
        error = await refused(service.stub.Generate(request_for("m", run_id="run-1")))
        store.heal()
        seen.append((await watch.read()).status)
        watch.cancel()

    assert seen == [SERVING, NOT_SERVING, SERVING]
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert service.simulator.requests == []


async def test_reflection_lists_the_service_and_shows_its_methods(service: Service):
    """So that a generic client can call it."""
    channel: Any = service.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)

    async def questions() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    answers = [answer async for answer in stub.ServerReflectionInfo(questions())]

    listed = {each.name for each in answers[0].list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.channelz.v1.Channelz"} <= listed
    files = b"".join(answers[1].file_descriptor_response.file_descriptor_proto)
    assert b"WatchRun" in files


async def test_channelz_shows_the_server(service: Service):
    """With the calls that it has had."""
    await refused(service.stub.Generate(request_for("no such model")))
    channel: Any = service.channel
    stub: Any = channelz_pb2_grpc.ChannelzStub(channel)

    answer = await stub.GetServers(channelz_pb2.GetServersRequest())

    assert any(server.data.calls_started > 0 for server in answer.server)
