"""Callers that start, follow, watch, ask for and stop runs on any replica, and go on at another when theirs dies."""

import asyncio
import random
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio

from crash.witness import ENDINGS, Broken, Reader, Witness, parts_of
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from replicas.callers import Callers, Stream, request
from replicas.fleet import Fleet, Replica

MODELS = ("count-2000-300", "count-200-100", "count-40-100", "reason-40-100", "stall-3", "cut-10", "tool-call-20")
AT_ONCE = 16
SETTLE_SECONDS = 60.0
RETRY_SECONDS = 0.1
ANSWER_SECONDS = 20.0

_CALLER = "a caller"

ResultT = TypeVar("ResultT")


class Load:
    """So many callers at a time, each with a run of its own; an async context manager.

    Leaving it starts no more, stops what does not end by itself, and waits until every caller has an ending.
    """

    def __init__(self, fleet: Fleet, chance: random.Random, models: Sequence[str] = MODELS) -> None:
        self.callers = Callers()
        self.lost: dict[str, str] = {}
        """Runs that a reader was told had become shorter, or were gone."""
        self._fleet = fleet
        self._chance = chance
        self._models = models
        self._is_over = asyncio.Event()
        self._failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call_for_ever(), name=f"load {each}") for each in range(AT_ONCE)]
        for task in self._tasks:
            task.add_done_callback(self._note)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        _, late = await asyncio.wait(self._tasks, timeout=0.0 if kind else SETTLE_SECONDS)
        doing = sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(_CALLER))
        for task in late:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            self.check()
        if kind is None and late:
            raise Broken(f"no ending after {SETTLE_SECONDS:.0f} s: {doing}")

    def check_kept(self) -> None:
        """Raises if any reader was told that a run is gone, or shorter than it was."""
        if self.lost:
            raise Broken(f"the store lost nothing, and readers were told so: {self.lost}")

    async def begun(self, runs: int) -> None:
        """Waits until so many runs were started, and somebody has seen something of them."""
        while sum(witness.was_seen for witness in self.callers.witnesses.values()) < runs:
            self.check()
            await self.callers.news.wait()

    def check(self) -> None:
        """Raises what went wrong for a caller."""
        if self._failures:
            raise self._failures[0]

    def _note(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)
            self.callers.news.fire()

    # --- one caller -------------------------------------------------------------------------------------------------

    async def _call_for_ever(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, 0.5))
        while not self._is_over.is_set():
            await self._call()

    async def _call(self) -> None:
        model = self._chance.choice(self._models)
        wanted = request(self.callers.new_id(), model)
        witness = self.callers.witness(wanted.run_id)
        stops = model.startswith("stall") or self._chance.random() < 0.4
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._follow(wanted), name=f"{_CALLER} follows {wanted.run_id}")
            if self._chance.random() < 0.6:
                group.create_task(self._look_on(witness), name=f"{_CALLER} looks on {wanted.run_id}")
            if stops:
                group.create_task(self._stop(witness, following), name=f"{_CALLER} stops {wanted.run_id}")

    async def _follow(self, wanted: service_wire.GenerateRequest) -> None:
        """Reads a run to its end, on one replica after another."""
        stream = self.callers.start(self._any(), wanted)
        while not await self._is_read(stream):
            await asyncio.sleep(RETRY_SECONDS)
            seen = stream.reader
            replica = self._any()
            if seen.sequence:
                stream = self.callers.watch(replica, wanted.run_id, seen)
            else:
                stream = self.callers.start(replica, wanted)

    async def _is_read(self, stream: Stream) -> bool:
        """Whether there is no more to read of a run: it has ended, or is lost."""
        try:
            await stream.rest()
        except grpc.aio.AioRpcError as error:
            if error.code() in (grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.NOT_FOUND):
                self._lose(stream.run_id, str(error.details()))
                return True
            _expect(error)
            return False
        return stream.reader.finished is not None or await self._is_at_end(stream)

    async def _is_at_end(self, stream: Stream) -> bool:
        """A stream without an ending: there is none after this event. It was seen, or the log is a shorter one now."""
        run = await self._answer(self._any().stub.GetRun(service_wire.GetRunRequest(run_id=stream.run_id)))
        is_at_end = run is not None and run.state in ENDINGS and run.last_sequence == stream.reader.sequence
        if is_at_end:
            self._lose(stream.run_id, "its end is where a delta was")
        return is_at_end

    async def _look_on(self, witness: Witness) -> None:
        """Follows it elsewhere, and asks for it elsewhere."""
        await self._seen(witness)
        await asyncio.sleep(self._chance.uniform(0, 1))
        run = await self._answer(self._any().stub.GetRun(service_wire.GetRunRequest(run_id=witness.run_id)))
        if run is not None:
            witness.answers.append(run)
            self.callers.news.fire()
        await self._is_read(self.callers.watch(self._any(), witness.run_id))

    async def _stop(self, witness: Witness, following: "asyncio.Task[None]") -> None:
        await self._seen(witness)
        await asyncio.sleep(self._chance.uniform(0, 2))
        # Also one that others were told is gone: its owner may put it back.
        while not following.done():
            answer = await self._answer(self.callers.cancel(self._any(), witness.run_id))
            if answer is not None and answer.outcome != service_wire.CancelResponse.OUTCOME_STOPPING:
                return
            await asyncio.sleep(RETRY_SECONDS)

    def _lose(self, run_id: str, why: str) -> None:
        self.lost[run_id] = why
        self.callers.news.fire()

    async def _seen(self, witness: Witness) -> None:
        while not witness.was_seen and witness.run_id not in self.lost:
            await self.callers.news.wait()

    async def _answer(self, call: Awaitable[ResultT]) -> ResultT | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await call
        except TimeoutError:
            return None
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                _expect(error)
            return None

    def _any(self) -> Replica:
        return self._chance.choice(self._fleet.alive)


def _expect(error: grpc.aio.AioRpcError) -> None:
    if error.code() is not grpc.StatusCode.UNAVAILABLE:
        raise Broken(f"{error.code()}: {error.details()}") from error


@dataclass(slots=True)
class Losses:
    """What readers had seen and the store does not have any more."""

    runs: int = 0
    gone: int = 0
    shortened: int = 0
    bytes: int = 0
    endings: int = 0

    @property
    def is_none(self) -> bool:
        """Whether nothing was lost."""
        return not (self.gone or self.shortened or self.endings)

    def line(self) -> str:
        """For a person."""
        if self.is_none:
            return f"{self.runs} runs, nothing lost"
        return (
            f"{self.runs} runs: {self.gone} gone, {self.shortened} shorter than a reader saw ({self.bytes} bytes), "
            f"{self.endings} with another ending"
        )

    def take(self, witness: Witness, run: wire.Run | None) -> None:
        """Adds what was lost of one run.

        Raises:
            Broken: it has other text than a reader saw.
        """
        self.runs += 1
        if run is None:
            self.gone += 1
            return
        kept = parts_of(run)
        lost = max((_lost_bytes(reader, kept, witness.run_id) for reader in witness.readers), default=0)
        self.shortened += lost > 0
        self.bytes += lost
        self.endings += any(reader.finished not in (None, run) for reader in witness.readers)


def _lost_bytes(reader: Reader, kept: dict[int, bytes], run_id: str) -> int:
    lost = 0
    for index, payload in reader.parts.items():
        left = kept.get(index, b"")
        if not (left.startswith(payload) or payload.startswith(left)):
            raise Broken(f"{run_id} has two histories: {payload[-40:]!r} and {left[-40:]!r}")
        lost += max(0, len(payload) - len(left))
    return lost
