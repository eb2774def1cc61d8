"""What a scenario works with: callers, models, and control."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from interop.python.callers import Caller, Endpoint, Reader
from interop.python.client_caller import ClientCaller
from interop.python.expect import Unexpected, expect
from interop.python.raw_caller import RawCaller
from midstream.v1 import run_pb2 as wire

_MAKERS: Mapping[str, Callable[[Endpoint], Caller]] = {"client": ClientCaller, "raw": RawCaller}


@dataclass(frozen=True, slots=True)
class Stage:
    """A runner's configuration, with methods."""

    configuration: Mapping[str, Any]
    session: aiohttp.ClientSession

    @property
    def is_raw(self) -> bool:
        """Whether no client library may be used."""
        return bool(self.configuration["kind"] == "raw")

    def model(self, script: str) -> str:
        """What a script's model is called."""
        return str(self.configuration["models"][script])

    def caller(self, target: str = "target") -> Caller:
        """A new one, on `target`, `proxy_target` or `scripted_target`."""
        tls = self.configuration["tls"] if target != "scripted_target" else None
        endpoint = Endpoint(
            target=self.configuration[target],
            ca_file=tls["ca_file"] if tls else None,
            api_key=self.configuration["api_key"],
        )
        return _MAKERS[self.configuration["kind"]](endpoint)

    async def control(self, path: str, **body: Any) -> dict[str, Any]:
        """Asks the harness.

        Raises:
            Unexpected: it refuses.
        """
        async with self.session.post(self.configuration["control"] + path, json=body) as response:
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise Unexpected(answer["error"])
            return answer

    async def open(self, run_id: str, *gates: str) -> None:
        """Opens gates of a run's script."""
        for gate in gates:
            await self.control("/upstream/open", run_id=run_id, gate=gate)

    async def expect_upstream(self, run_id: str, *, requests: int, text_sent: str | None = None) -> None:
        """Once nothing of the run is open upstream, compares what it saw."""
        seen = await self.control("/upstream/closed", run_id=run_id)
        expect((seen["requests"], seen["open"]), (requests, 0), f"requests and open ones upstream of {run_id}")
        if text_sent is not None:
            expect(seen["text_sent"], text_sent, "text sent upstream")

    async def start(self, caller: Caller, run_id: str, script: str, **fields: Any) -> Reader:
        """Starts a run whose text is its id."""
        return await caller.start(run_id, self.model(script), run_id, **fields)

    async def complete(self, caller: Caller, run_id: str, script: str, **fields: Any) -> wire.Run:
        """Starts a run and reads it to its end, which must be an exact transcript."""
        return await to_end(await self.start(caller, run_id, script, **fields))

    @asynccontextmanager
    async def reading(
        self, run_id: str, script: str, gates: str, text: str, *, target: str = "target", **fields: Any
    ) -> AsyncIterator[tuple[Caller, Reader]]:
        """A caller that has started a run and read it until it said something."""
        async with self.caller(target) as caller:
            reader = await self.start(caller, run_id, script, **fields)
            await self.open(run_id, *gates.split())
            await until(reader, text)
            yield caller, reader


async def until(reader: Reader, text: str) -> None:
    """Reads until the text is this.

    Raises:
        Unexpected: it becomes another, or the stream ends before.
    """
    while (got := reader.transcript.text) != text:
        if not text.startswith(got):
            raise Unexpected(f"text: expected {text!r} to begin with {got!r}")
        if not await reader.next():
            raise Unexpected(f"the stream ended at text {got!r}, before {text!r}")


async def to_end(reader: Reader) -> wire.Run:
    """Reads to the end; the run, which must be what came."""
    run = await reader.final()
    reader.transcript.check(run)
    return run
