"""Runs at an upstream that goes on without its reader: a cancel stops it with a call of its own."""

from typing import Any

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_simulator import Role, Stall, Text, streamed
from rpc.dialect_service import CASES, dialect_service
from rpc.served import text_of

BACKGROUND: dict[str, Any] = {
    "remote_cancel": "/responses/{id}/cancel",
    "extra_body": {"background": True, "store": True},
}


async def test_a_cancel_stops_the_answer_at_the_upstream_too():
    """By its id, before the cancel is answered; the partial is kept."""
    async with dialect_service(CASES["openai-responses"], profile=BACKGROUND) as service:
        service.simulator.play("m", [Role(), Text(["Hel"]), Stall()])
        stream = await service.generate("m", run_id="run-1")
        await stream.says("Hel")

        answer = await service.cancel("run-1")

        assert service.simulator.cancelled_responses == ["resp_simulated_1"]
        assert answer.outcome == wire.CancelResponse.OUTCOME_CANCELLED
        assert answer.run == await stream.to_end()
        assert text_of(answer.run) == "Hel"
        [request] = service.simulator.requests
        assert (request.body["background"], request.body["store"]) == (True, True)


async def test_a_run_that_completes_stops_nothing():
    """It has ended by itself."""
    async with dialect_service(CASES["openai-responses"], profile=BACKGROUND) as service:
        service.simulator.play("m", streamed(Text(["Hello"])))

        run = await (await service.generate("m")).to_end()

        assert run.state == run_pb2.RUN_STATE_COMPLETED
        assert service.simulator.cancelled_responses == []
