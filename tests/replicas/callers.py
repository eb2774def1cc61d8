"""Callers of replicas, who write down what they see."""

import asyncio
import copy
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from crash.witness import ENDINGS, Broken, Reader, Witness
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_server.engine.broadcast import Broadcast
from midstream_simulator import RecordedRequest, Simulator
from replicas.fleet import Replica

if TYPE_CHECKING:
    Call = grpc.aio.UnaryStreamCall[Any, wire.RunEvent]

LONG = Duration(seconds=60)


def request(
    run_id: str,
    model: str,
    *,
    action: "wire.DetachPolicy.Action.ValueType" = wire.DetachPolicy.ACTION_CONTINUE,
    conversation_id: str = "",
    on_conflict: "wire.ConversationPolicy.ValueType" = wire.CONVERSATION_POLICY_UNSPECIFIED,
) -> service_wire.GenerateRequest:
    """A start whose prompt is the run's id, so that the upstream can tell whose call it got."""
    part = wire.Part(text=wire.Text(text=run_id))
    return service_wire.GenerateRequest(
        run_id=run_id,
        model=f"up/{model}",
        messages=[wire.Message(role=wire.ROLE_USER, parts=[part])],
        on_detach=wire.DetachPolicy(action=action),
        conversation_id=conversation_id,
        on_conflict=on_conflict,
    )


class Stream:
    """One stream, read on demand into a witness's reader."""

    def __init__(self, run_id: str, call: "Call", reader: Reader, news: Broadcast) -> None:
        self.run_id = run_id
        self._news = news
        self.call = call
        self.reader = reader

    async def until(self, sequence: int) -> None:
        """Reads up to an event."""
        while self.reader.sequence < sequence and await self._read():
            pass

    async def rest(self) -> Reader:
        """Reads to the end."""
        while await self._read():
            pass
        return self.reader

    async def _read(self) -> bool:
        event = await self.call.read()
        if isinstance(event, wire.RunEvent):
            self.reader.take(event)
            self._news.fire()
            return True
        return False


@dataclass
class Callers:
    """All that callers saw, by run."""

    witnesses: dict[str, Witness] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: os.urandom(4).hex())
    news: Broadcast = field(default_factory=Broadcast)
    """Fires when anybody has seen more."""

    def new_id(self) -> str:
        """The id of another run; others on the same store have others."""
        run_id = f"run-{self.prefix}-{len(self.witnesses)}"
        self.witnesses[run_id] = Witness(run_id)
        return run_id

    def witness(self, run_id: str) -> Witness:
        """What is known of one run."""
        return self.witnesses.setdefault(run_id, Witness(run_id))

    def start(self, replica: Replica, wanted: service_wire.GenerateRequest) -> Stream:
        """Starts a run."""
        return Stream(wanted.run_id, replica.stub.Generate(wanted), self._reader(wanted.run_id), self.news)

    def watch(self, replica: Replica, run_id: str, seen: Reader | None = None) -> Stream:
        """Follows a run from where another reader was."""
        reader = self._reader(run_id, copy.deepcopy(seen) if seen else None)
        wanted = service_wire.WatchRunRequest(run_id=run_id, after_sequence=reader.sequence)
        return Stream(run_id, replica.stub.WatchRun(wanted), reader, self.news)

    async def cancel(self, replica: Replica, run_id: str) -> service_wire.CancelResponse:
        """Stops a run."""
        answer: service_wire.CancelResponse = await replica.stub.Cancel(
            service_wire.CancelRequest(run_id=run_id, reason="stop", wait=Duration(seconds=30))
        )
        self.witness(run_id).answers.append(answer.run)
        self.news.fire()
        return answer

    async def check(self, replicas: Sequence[Replica]) -> None:
        """Waits for the end of every run that anybody saw, and holds what each replica says against all of it.

        Raises:
            Broken: a promise was not kept.
        """
        seen = [witness for witness in self.witnesses.values() if witness.was_seen]
        await asyncio.gather(*(self._check(witness, replicas) for witness in seen))

    async def _check(self, witness: Witness, replicas: Sequence[Replica]) -> None:
        for replica in replicas:
            witness.check(await ended(replica, witness.run_id))

    def _reader(self, run_id: str, reader: Reader | None = None) -> Reader:
        readers = self.witness(run_id).readers
        readers.append(reader or Reader())
        return readers[-1]


async def ended(replica: Replica, run_id: str) -> wire.Run:
    """A run when it has ended.

    Raises:
        Broken: it does not, or is unknown.
    """
    wanted = service_wire.GetRunRequest(run_id=run_id, wait_until_finished=True, max_wait=LONG)
    try:
        run: wire.Run = await replica.stub.GetRun(wanted)
    except grpc.aio.AioRpcError as error:
        raise Broken(f"{run_id}: {error.code()}: {error.details()}") from error
    if run.state not in ENDINGS:
        raise Broken(f"{run_id} is {wire.RunState.Name(run.state)} for a minute")
    return run


def calls_of(simulator: Simulator, run_ids: Sequence[str]) -> list[RecordedRequest]:
    """The calls that the upstream got for these runs."""
    return [each for each in simulator.requests if each.body["messages"][-1]["content"] in run_ids]


def check_one_bill(simulator: Simulator, run_ids: Sequence[str]) -> None:
    """No run was paid for twice.

    Raises:
        Broken: one was.
    """
    counts = Counter(each.body["messages"][-1]["content"] for each in calls_of(simulator, run_ids))
    for run_id, count in counts.items():
        if count > 1:
            raise Broken(f"{run_id} was sent upstream {count} times")
