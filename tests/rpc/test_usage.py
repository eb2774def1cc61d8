"""What runs used, through the whole server: every number says where it came from, and is booked once (P12)."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from command_line import LISTENING, command, environment
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_simulator import (
    Cut,
    Finish,
    Gate,
    Head,
    Raw,
    Reasoning,
    Reset,
    Role,
    Script,
    Simulator,
    Stall,
    Step,
    Text,
    ToolCall,
    Usage,
)
from rpc.dialect_service import CASES, dialect_service
from rpc.served import Service, Stream, opened, request_for, text_of

ESTIMATED, RUNNING, FINAL = (
    run_pb2.USAGE_SOURCE_ESTIMATED,
    run_pb2.USAGE_SOURCE_UPSTREAM_RUNNING,
    run_pb2.USAGE_SOURCE_UPSTREAM_FINAL,
)
SPOKEN: list[Step] = [Role(), Text(["Hel", "lo", " wor"])]


def counts(run: run_pb2.Run) -> dict[str, tuple[int, int]]:
    """Every number of a run's usage, with its source."""
    return {field.name: (count.value, count.source) for field, count in run.usage.ListFields() if field.name != "other"}


def timings(content: str, predicted: int) -> Step:
    """A chunk of llama.cpp's with `timings_per_token`: 8 tokens of prompt, 6 of them from its cache."""
    account = {"cache_n": 6, "prompt_n": 2, "predicted_n": predicted}
    chunk = {"id": "c", "choices": [{"index": 0, "delta": {"content": content}}], "timings": account}
    return Raw(f"data: {json.dumps(chunk)}\n\n")


# --- Where the numbers come from --------------------------------------------------------------------------------------

VLLM = ("continuous_usage_stats", SPOKEN, {"input": (1, RUNNING), "cached_input": (0, RUNNING), "output": (3, RUNNING)})
LLAMA = (
    "timings",
    [Role(), timings("Hel", 1), timings("lo wor", 2)],
    {"input": (8, RUNNING), "cached_input": (6, RUNNING), "output": (2, RUNNING)},
)


@pytest.mark.parametrize(("profile", "spoken", "expected"), [VLLM, LLAMA], ids=["vLLM", "llama.cpp"])
async def test_a_stopped_run_has_the_running_account_of_an_upstream_that_keeps_one(
    profile: str, spoken: Script, expected: dict[str, tuple[int, int]]
):
    """Asked for by the profile; told while the run lives, and the same after the stop, wherever one looks."""
    async with dialect_service(CASES["openai-chat"], profile={"running_usage": profile}) as service:
        service.simulator.play("m", [*spoken, Stall()])
        stream = await service.generate("m", run_id="run-1")
        await stream.says("Hello wor")
        before = await service.get("run-1")

        stopped = (await service.cancel("run-1")).run
        listed = await service.stub.ListRuns(wire.ListRunsRequest())

        body = (await service.simulator.received()).body
        assert body.get("timings_per_token") or body["stream_options"]["continuous_usage_stats"]
        assert before.state == run_pb2.RUN_STATE_RUNNING
        assert {name: counts(before)[name] for name in expected} == expected
        assert {name: counts(stopped)[name] for name in expected} == expected
        assert (await stream.to_end()).usage == listed.runs[0].usage == stopped.usage


@pytest.mark.parametrize("profile", ["continuous_usage_stats", "timings"])
async def test_the_running_account_becomes_final_with_the_end_of_the_run(profile: str):
    """The upstream's last word on a run that it finished is no running number."""
    async with dialect_service(CASES["openai-chat"], profile={"running_usage": profile}) as service:
        spoken = [Role(), timings("Hello", 2)] if profile == "timings" else SPOKEN
        service.simulator.play("m", [*spoken, Finish()])

        run = await (await service.generate("m")).to_end()

        assert run.state == run_pb2.RUN_STATE_COMPLETED
        assert {source for _, source in counts(run).values()} == {FINAL}
        assert run.usage.output.value == (2 if profile == "timings" else 3)


@pytest.mark.parametrize(
    ("steps", "output_bytes"),
    [
        ([Text(["Hello"])], 5),
        ([Text(["Grüße ", "☃"])], 8 + 3),
        ([Reasoning(["hm ", "ja"]), Text(["Ok"])], 5 + 2),
        ([Text(["Look "]), ToolCall(['{"a', '": 1'], id="call", name="weather")], 5 + 7),
    ],
    ids=["text", "more bytes than characters", "thoughts too", "a tool call's arguments too"],
)
async def test_without_an_account_the_output_is_estimated_from_its_bytes(
    service: Service, steps: list[Step], output_bytes: int
):
    """A quarter of them, rounded up, and it says so; of the input nothing is said."""
    service.simulator.play("m", [Role(), *steps, Gate("said"), Stall()])
    stream = await service.generate("m", run_id="run-1")
    await (await service.simulator.received()).reached("said")
    while _received_bytes(stream) != output_bytes:
        await stream.next()

    run = (await service.cancel("run-1")).run

    assert counts(run) == {"output": ((output_bytes + 3) // 4, ESTIMATED)}
    assert not run.HasField("settlement")


def _received_bytes(stream: Stream) -> int:
    return sum(
        len((event.delta.text or event.delta.reasoning or event.delta.tool_call.arguments).encode())
        for event in stream.log
    )


@pytest.mark.parametrize("position", ["before headers", "after headers", "after the first chunk"])
async def test_where_nothing_was_received_nothing_is_claimed(service: Service, position: str):
    """Absent, not 0: what the provider read and made by then, nobody has told."""
    head: dict[str, Script] = {"before headers": [], "after headers": [Head()], "after the first chunk": [Role()]}
    service.simulator.play("m", [*head[position], Stall()])
    await service.generate("m", run_id="run-1")
    await service.simulator.received()

    run = (await service.cancel("run-1")).run

    assert (run.state, run.attempts) == (run_pb2.RUN_STATE_CANCELLED, 1)
    assert not run.HasField("usage")


async def test_a_remembered_cancel_used_nothing(service: Service):
    """No attempt, no upstream, no number; also after the Generate that it overtook has come."""
    early = (await service.cancel("run-1")).run

    late = await (await service.generate("count-3", run_id="run-1")).to_end()

    assert (early.attempts, late.attempts, late.upstream) == (0, 0, "")
    assert not early.HasField("usage")
    assert not late.HasField("usage")
    assert service.simulator.requests == []


@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
async def test_a_final_account_counts_though_the_stream_breaks_after_it(service: Service, end: Step):
    """The last account that came is the usage, however the stream ended; nothing is estimated beside it."""
    service.simulator.play("m", [*SPOKEN, Finish(), Usage(prompt_tokens=7, completion_tokens=5), end])

    run = await (await service.generate("m")).to_end()

    assert run.state == run_pb2.RUN_STATE_COMPLETED
    assert (counts(run)["input"], counts(run)["output"]) == ((7, FINAL), (5, FINAL))


# --- What was discarded -----------------------------------------------------------------------------------------------


async def test_what_came_with_the_stop_is_counted_and_not_kept(service: Service):
    """Forty pieces in one read, the first of which uses up the budget: 39 events were paid for and thrown away."""
    service.simulator.play("m", [Role(), Text(["word "] * 40, per_write=40), Stall()])

    stream = await service.generate("m", limits=run_pb2.RunLimits(output_tokens=2))
    run = await stream.to_end()

    assert (run.cancel_reason, text_of(run)) == (run_pb2.CANCEL_REASON_BUDGET, "word ")
    assert run.cancel.discarded_events == 39
    assert counts(run) == {"output": (2, ESTIMATED)}


async def test_what_never_arrived_is_not_claimed(service: Service):
    """In a flood: what was kept and what was discarded is at most what was sent."""
    piece = "x" * 100
    service.simulator.play("m", [Role(), Text([piece] * 200_000, per_write=16)])
    stream = await service.generate("m", run_id="run-1")
    await stream.until(lambda event: event.HasField("delta"))
    request = await service.simulator.received()

    run = (await service.cancel("run-1")).run
    await request.closed()

    assert run.state == run_pb2.RUN_STATE_CANCELLED
    kept = len(text_of(run)) // len(piece)
    assert 0 < kept + run.cancel.discarded_events <= request.tokens_sent < 200_000
    assert run.cancel.discarded_bytes <= request.bytes_sent
    assert counts(run) == {"output": (kept * len(piece) // 4, ESTIMATED)}


# --- Booked once ------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def mortal_server(config: Path) -> AsyncIterator[Any]:
    """A server in a process of its own that is killed at the end; its stub."""
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--config", str(config)), stdout=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith(LISTENING), line
        async with opened(line.removeprefix(LISTENING).strip()) as (_, stub):
            yield stub
            process.send_signal(signal.SIGKILL)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_usage_is_booked_once_though_the_server_is_killed(tmp_path: Path):
    """A run that had ended keeps its account; of one that was cut the output is estimated, once, with its ending."""
    config = tmp_path / "midstream.toml"
    async with Simulator() as simulator:
        config.write_text(
            f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{tmp_path}/runs.db'\nlocal.enabled = false\n"
            f"log.level = 'error'\n[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
        )
        simulator.play("whole", [*SPOKEN, Finish(), Usage(prompt_tokens=7, completion_tokens=5)])
        simulator.play("long", [*SPOKEN, Stall()])
        async with mortal_server(config) as stub:
            whole = await Stream(stub.Generate(request_for("whole", run_id="whole"))).to_end()
            await Stream(stub.Generate(request_for("long", run_id="long"))).says("Hello wor")
        looks = [await _look(config) for _ in range(2)]

    assert (counts(whole)["input"], counts(whole)["output"]) == ((7, FINAL), (5, FINAL))
    assert looks[0] == looks[1]
    assert looks[0]["whole"] == whole
    assert looks[0]["long"].state == run_pb2.RUN_STATE_FAILED
    assert counts(looks[0]["long"]) == {"output": (3, ESTIMATED)}


async def _look(config: Path) -> dict[str, run_pb2.Run]:
    """Both runs in a new life of the server, which tells the same of them wherever one looks; it is killed, too."""
    runs = {}
    async with mortal_server(config) as stub:
        listed = {run.run_id: run.usage for run in (await stub.ListRuns(wire.ListRunsRequest())).runs}
        for run_id in ("whole", "long"):
            stream = Stream(stub.WatchRun(wire.WatchRunRequest(run_id=run_id)))
            runs[run_id] = await stream.to_end()
            assert runs[run_id] == await stub.GetRun(wire.GetRunRequest(run_id=run_id))
            assert listed[run_id] == runs[run_id].usage
    return runs
