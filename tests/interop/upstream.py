"""What the upstream saw of a run: its requests are found by the first line of their text, which is the run id."""

from collections.abc import Sequence
from typing import Any

from midstream_simulator import RecordedRequest, Simulator
from midstream_simulator.chat import ChatDialect

_DIALECT = ChatDialect()


class UpstreamView:
    """Asks a simulator by run."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def see(self, run_id: str) -> dict[str, Any]:
        """What it saw until now."""
        requests = self._requests_of(run_id)
        return {
            "requests": len(requests),
            "open": sum(map(_is_open, requests)),
            "prompt": _prompt(requests[-1]) if requests else "",
            "text_sent": requests[-1].text_sent if requests else "",
        }

    async def arrived(self, run_id: str) -> None:
        """Waits for the run's first request."""
        await self._latest(run_id)

    async def reached(self, run_id: str, gate: str) -> None:
        """Waits until the latest request stands at a gate, or has passed it."""
        await (await self._latest(run_id)).reached(gate)

    async def open(self, run_id: str, gate: str) -> None:
        """Lets the latest request pass a gate."""
        (await self._latest(run_id)).release(gate)

    async def closed(self, run_id: str) -> None:
        """Waits until no request of the run is open."""
        for request in self._requests_of(run_id):
            await _no_longer_open(request)

    def open_runs(self) -> Sequence[str]:
        """The runs that have an open request."""
        return [_prompt(each).partition("\n")[0] for each in self._simulator.requests if _is_open(each)]

    def _requests_of(self, run_id: str) -> Sequence[RecordedRequest]:
        return [each for each in self._simulator.requests if _prompt(each).partition("\n")[0] == run_id]

    async def _latest(self, run_id: str) -> RecordedRequest:
        while not (requests := self._requests_of(run_id)):
            await self._simulator.received(len(self._simulator.requests) + 1)
        return requests[-1]


def _prompt(request: RecordedRequest) -> str:
    return _DIALECT.last_user_text(request.body)


def _is_open(request: RecordedRequest) -> bool:
    return request.finished_ns is None and request.closed_ns is None


async def _no_longer_open(request: RecordedRequest) -> None:
    await request.over()
    if _is_open(request):
        await request.closed()
