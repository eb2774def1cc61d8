"""A conversation whose members start on different replicas, one of which dies."""

import asyncio
import random
from itertools import pairwise
from pathlib import Path

from google.protobuf.duration_pb2 import Duration

from crash.witness import ENDINGS, Broken
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_simulator import Simulator
from replicas.callers import Callers, Stream, calls_of, ended, request
from replicas.figures import Options
from replicas.fleet import Fleet, Replica
from valkey_server import single_server

ROUNDS = 6
LONG_MODEL, SHORT_MODEL = "count-100000-50", "count-20-100"
CONVERSATION = "conversation"


async def superseded(folder: Path, options: Options) -> list[str]:
    """Two SUPERSEDEs and a QUEUE on three replicas, while the owner of the second is killed."""
    chance = random.Random(options.seed)
    with single_server() as store:
        async with Simulator() as simulator:
            fleet = Fleet(folder, store.url, simulator.base_url, lease_seconds=2.0, heartbeat_seconds=0.5)
            async with fleet:
                await fleet.add(3)
                endings = [await _round(fleet, simulator, chance) for _ in range(ROUNDS)]
    return [f"{ROUNDS} conversations, never two upstreams at once, the queued run always came to its end:", *endings]


async def _round(fleet: Fleet, simulator: Simulator, chance: random.Random) -> str:
    one, middle, three = fleet.alive
    callers = Callers()
    first = _member(callers, one, wire.CONVERSATION_POLICY_ALLOW)
    await first.until(2)
    streams = [_member(callers, replica, wire.CONVERSATION_POLICY_SUPERSEDE) for replica in (one, middle)]
    await asyncio.gather(*(stream.until(1) for stream in streams))
    queue = _member(callers, three, wire.CONVERSATION_POLICY_QUEUE, SHORT_MODEL)
    await queue.until(1)
    await asyncio.sleep(chance.uniform(0, 0.3))
    await middle.kill()
    first_id, other_id, dead_id, queue_id = callers.witnesses
    endings = [await ended(three, first_id), await ended(three, dead_id), await _end(callers, three, other_id)]
    endings.append(await ended(one, queue_id))
    if (await queue.rest()).finished != endings[-1] or endings[-1].state != wire.RUN_STATE_COMPLETED:
        raise Broken(f"the queued run ended {endings[-1]}")
    await callers.check(fleet.alive)
    _check_apart(simulator, list(callers.witnesses))
    await fleet.add()
    names = ("first", "killed SUPERSEDE", "other SUPERSEDE", "QUEUE")
    return "  " + ", ".join(f"{name} {_named(run)}" for name, run in zip(names, endings, strict=True))


def _member(
    callers: Callers,
    replica: Replica,
    on_conflict: "wire.ConversationPolicy.ValueType",
    model: str = LONG_MODEL,
) -> Stream:
    conversation_id = f"{CONVERSATION}-{callers.prefix}"
    wanted = request(callers.new_id(), model, conversation_id=conversation_id, on_conflict=on_conflict)
    return callers.start(replica, wanted)


async def _end(callers: Callers, replica: Replica, run_id: str) -> wire.Run:
    """The one that came last is nobody's to end but its caller's, unless the dead one came after it."""
    wanted = service_wire.GetRunRequest(run_id=run_id, wait_until_finished=True, max_wait=Duration(seconds=1))
    run: wire.Run = await replica.stub.GetRun(wanted)
    return run if run.state in ENDINGS else (await callers.cancel(replica, run_id)).run


def _check_apart(simulator: Simulator, run_ids: list[str]) -> None:
    calls = [call for call in calls_of(simulator, run_ids) if call.received_ns]
    calls.sort(key=lambda call: call.received_ns)
    for before, after in pairwise(calls):
        over = before.finished_ns or before.closed_ns
        if over is None or over > after.received_ns:
            raise Broken(f"two upstreams at once: {before.body} and {after.body}")


def _named(run: wire.Run) -> str:
    state = wire.RunState.Name(run.state).removeprefix("RUN_STATE_")
    reason = wire.CancelReason.Name(run.cancel_reason).removeprefix("CANCEL_REASON_") if run.cancel_reason else ""
    return f"{state} {reason}".strip()
