"""A run whose time has come is shown to nobody, whether or not the expiry in the background has got to it."""

import asyncio

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from midstream.v1 import generation_service_pb2 as wire
from rpc.served import Service, request_for, simulated_service

RETENTION = Duration(nanos=50_000_000)


@pytest.fixture
async def service():
    async with simulated_service() as serving:
        yield serving


async def _expired(service: Service) -> None:
    """A run that ended, and whose 50 ms of retention are over."""
    call = service.stub.Generate(request_for("count-2", run_id="gone", retention=RETENTION))
    run = [event async for event in call][-1].finished.run
    due = asyncio.get_running_loop().create_future()
    seconds = (run.expire_time.ToNanoseconds() - run.end_time.ToNanoseconds()) / 1e9
    asyncio.get_running_loop().call_later(seconds + 0.01, due.set_result, None)
    await due


ASKING = {
    "GetRun": lambda stub: stub.GetRun(wire.GetRunRequest(run_id="gone")),
    "GetRun, waiting": lambda stub: stub.GetRun(wire.GetRunRequest(run_id="gone", wait_until_finished=True)),
    "Cancel": lambda stub: stub.Cancel(wire.CancelRequest(run_id="gone")),
    "DeleteRun": lambda stub: stub.DeleteRun(wire.DeleteRunRequest(run_id="gone")),
    "WatchRun": lambda stub: stub.WatchRun(wire.WatchRunRequest(run_id="gone")).read(),
    "WatchRun, claiming": lambda stub: stub.WatchRun(wire.WatchRunRequest(run_id="gone", claim=True)).read(),
    "Generate": lambda stub: stub.Generate(request_for("count-2", run_id="gone", retention=RETENTION)).read(),
}


@pytest.mark.parametrize("asking", ASKING)
async def test_an_expired_run_is_told_as_expired_at_once(service: Service, asking: str):
    """Reads: NOT_FOUND. Generate: FAILED_PRECONDITION. No second upstream call."""
    await _expired(service)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ASKING[asking](service.stub)

    wanted = grpc.StatusCode.FAILED_PRECONDITION if asking == "Generate" else grpc.StatusCode.NOT_FOUND
    assert caught.value.code() is wanted
    assert "expired" in (caught.value.details() or "")
    assert len(service.simulator.requests) == 1


async def test_an_expired_run_is_not_listed(service: Service):
    """And the page is as full as without it."""
    await _expired(service)

    answer = await service.stub.ListRuns(wire.ListRunsRequest())

    assert not answer.runs
