"""The scenarios about lost connections, lost servers, and what is left over, for both kinds."""

import asyncio

import grpc

from interop.python.client_caller import ClientReader
from interop.python.expect import CallFailed, expect, expect_run, new_id, refused
from interop.python.raw_caller import RawReader
from interop.python.stage import Stage, to_end, until
from midstream.v1 import run_pb2 as wire

_LETTERS = "abcdéfgh"
_AT_ONCE = 16
_WARM_UP = 50
_RUNS = 1_000
_TASK_SLACK = 8
_AWAY_SECONDS = 30.0
"""A server that drains may be away for longer than a client tries by default."""


async def server_made_id(stage: Stage) -> None:
    async with stage.caller() as caller:
        reader = await caller.start("", stage.model("hello"), "nobody")
        assert isinstance(reader, RawReader), "it is a scenario for stubs"
        metadata = dict(await reader.call.initial_metadata())
        run_id = metadata["midstream-run-id"]
        expect(bool(run_id), True, "whether there is an id")
        run = await to_end(reader)
        expect((reader.events[0].started.run_id, run.run_id), (run_id, run_id), "the ids of the first and last event")


async def forward_rule(stage: Stage) -> None:
    async with stage.caller("scripted_target") as caller:
        reader = await caller.start(new_id("forward_rule"), "any/model", "hi")
        if isinstance(reader, RawReader):
            await reader.final()
            kinds = [event.WhichOneof("event") for event in reader.events]
            expect(kinds, ["started", "delta", None, "delta", "delta", "finished"], "kinds of events")
            expect(reader.events[3].delta.WhichOneof("payload"), None, "payload of the unknown delta")
        else:
            assert isinstance(reader, ClientReader)
            stream = reader.stream
            texts = [delta.text async for delta in stream if delta.text]
            expect((texts, stream.text, stream.last_sequence), (["ab", "cd"], "abcd", 6), "deltas, text, last sequence")
            expect(len((await stream.result()).message.parts), 3, "parts")


async def resume_at_every_event(stage: Stage) -> None:
    run_id, cuts = new_id("resume_at_every_event"), 0
    async with stage.caller("proxy_target") as caller:
        reader = await stage.start(caller, run_id, "letters")
        await stage.control("/upstream/reached", run_id=run_id, gate="1")
        cuts += (await stage.control("/proxy/cut"))["connections"]
        for number in range(1, len(_LETTERS) + 1):
            await stage.open(run_id, str(number))
            await until(reader, _LETTERS[:number])
            cuts += (await stage.control("/proxy/cut"))["connections"]
        await stage.open(run_id, "end")
        await stage.control("/proxy/cut")
        run = await to_end(reader)
    expect_run(run, wire.RUN_STATE_COMPLETED, _LETTERS)
    expect([part.state for part in run.message.parts], [wire.PART_STATE_COMPLETE], "states of parts")
    expect(stage.is_raw or cuts >= len(_LETTERS) + 1, True, f"{cuts} cuts are enough")
    await stage.expect_upstream(run_id, requests=1)


async def server_restart_midstream(stage: Stage) -> None:
    run_id = new_id("server_restart_midstream")
    async with stage.reading(run_id, "words", "one", "one") as (caller, reader):
        await stage.control("/server/kill")
        run = await to_end(reader)
        expect_run(run, wire.RUN_STATE_FAILED, "one")
        expect(b"OWNER_LOST" in run.error.details[0].value, True, f"OWNER_LOST is the reason of {run.error}")
        expect([part.state for part in run.message.parts], [wire.PART_STATE_TRUNCATED], "states of parts")
        expect(await caller.get(run_id), run, "GetRun")
    await stage.expect_upstream(run_id, requests=1)


async def drain(stage: Stage) -> None:
    run_id, refused_id = new_id("drain"), new_id("drain")
    async with stage.reading(run_id, "words", "one", "one") as (caller, reader), stage.caller() as elsewhere:
        await stage.control("/server/drain")
        later: asyncio.Task[wire.Run] | None = None
        if stage.is_raw:
            work = stage.complete(caller, refused_id, "hello")
            await refused(work, grpc.StatusCode.UNAVAILABLE, "DRAINING")
        else:
            later = asyncio.create_task(
                stage.complete(elsewhere, refused_id, "hello", on_detach=_AWAY_SECONDS), name="interop-later"
            )
        expect_run(await elsewhere.get(run_id), wire.RUN_STATE_RUNNING, "one")
        await stage.open(run_id, "two", "three", "end")
        run = await to_end(reader)
        expect_run(run, wire.RUN_STATE_COMPLETED, "one two three")
        await stage.control("/server/start")
        later_run = await (later or _persistently(stage, refused_id))
        expect_run(later_run, wire.RUN_STATE_COMPLETED, "Hello, world")
    async with stage.caller() as fresh:
        expect(await fresh.get(run_id), run, "GetRun")
    await stage.expect_upstream(refused_id, requests=1)


async def _persistently(stage: Stage, run_id: str) -> wire.Run:
    """Starts a run once the server is there."""
    while True:
        try:
            async with stage.caller() as caller:
                return await stage.complete(caller, run_id, "hello")
        except CallFailed as error:
            if error.failure.code is not grpc.StatusCode.UNAVAILABLE:
                raise
        await asyncio.sleep(0.1)


async def leak(stage: Stage) -> None:
    async with stage.caller() as caller:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def leave_one() -> str:
            run_id = new_id("leak")
            async with limit:
                reader = await stage.start(caller, run_id, "stall", leaves=True)
                await until(reader, "1 2 3")
                await reader.leave()
            return run_id

        await asyncio.gather(*(leave_one() for _ in range(_WARM_UP)))
        await stage.control("/leaks/mark")
        tasks = len(asyncio.all_tasks())
        run_ids = await asyncio.gather(*(leave_one() for _ in range(_RUNS)))
        answer = await stage.control("/leaks/check")
        expect(answer["leaks"], [], "leaks")
        expect(len(asyncio.all_tasks()) <= tasks + _TASK_SLACK, True, "whether all tasks are over")
        expect_run(await caller.get(run_ids[-1], wait=True), wire.RUN_STATE_CANCELLED, "1 2 3")
