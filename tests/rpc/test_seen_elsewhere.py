"""What was seen to go wrong in other systems, and must not here; each test names where.

Those that have a test beside their kin: a wait that returns while the run still runs (langgraphjs#2755), a stop pressed
before the run exists (smg#1351), a cancel inside a tool call that raises (langchain): `test_cancel_run`. Subscribing
just after the end (A2A), an unknown cursor that replays everything (Aegra): `test_watch_run`.
"""

import asyncio
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from engine_scenario import SharedStore
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server import app
from midstream_server.app import serving
from midstream_server.stores.memory import MemoryRunStore
from midstream_simulator import Cut, Done, Finish, Gate, Role, Script, Stall, Step, Text, ToolCall, streamed, words
from rpc.served import (
    PATIENCE_SECONDS,
    Service,
    flaky_service,
    opened,
    settings_for,
    simulated_service,
    stepwise,
    text_of,
)

CANCELLED = run_pb2.RUN_STATE_CANCELLED
SPOKEN: list[Step] = [Role(), Text(["Hel", "lo"])]


@pytest.mark.parametrize("state", ["stopped", "stopped at the last token"])
async def test_a_cancelled_run_never_becomes_a_completed_one(tmp_path: Path, state: str):
    """Azure, dify#39929: not by a repeat, nor a late cancel, nor a restart; its text is not emptied on the way either
    (azure-ai-agentserver-responses)."""
    store = f"sqlite:///{tmp_path}/runs.db"
    async with simulated_service(store) as service:
        rest = [Gate("finish"), Finish()] if state == "stopped at the last token" else [Stall()]
        service.simulator.play("m", [*SPOKEN, *rest])
        stream = await service.generate("m", run_id="run-1")
        await stream.says("Hello")
        stopped = (await service.cancel("run-1")).run
        again = await (await service.generate("m", run_id="run-1")).to_end()
        late = (await service.cancel("run-1")).run
    async with simulated_service(store) as service:
        kept = await service.get("run-1")
        listed = (await service.stub.ListRuns(wire.ListRunsRequest())).runs[0]

    assert (stopped.state, stopped.finish_reason, text_of(stopped)) == (
        CANCELLED,
        run_pb2.FINISH_REASON_UNSPECIFIED,
        "Hello",
    )
    assert stopped == again == late == kept
    assert listed.state == CANCELLED


@pytest.mark.parametrize("tokens", [1, 10, 100, 1000])
async def test_an_interrupt_in_a_flood_loses_no_token_that_was_streamed(service: Service, tokens: int):
    """langgraph#5672: what any reader had by then is the beginning of what the cancel answers with."""
    service.simulator.play("m", [Role(), Text([f"{number} " for number in range(100_000)], per_write=7)])
    stream = await service.generate("m", run_id="run-1")
    await stream.until(lambda _: stream.text.count(" ") >= tokens)
    seen = stream.text

    kept = text_of((await service.cancel("run-1")).run)
    await stream.drain()

    assert kept.startswith(seen)
    assert stream.text == kept == text_of(await service.get("run-1"))


async def test_a_cancel_sent_to_another_replica_stops_the_run(monkeypatch: pytest.MonkeyPatch):
    """aegra#529: the intent is in the store both share; the owner finds it with its next write."""
    inner = MemoryRunStore()
    monkeypatch.setattr(app, "make_store", lambda _settings: SharedStore(inner))
    async with (
        simulated_service() as owner,
        serving(settings_for(owner.simulator.base_url)) as other,
        opened(other.address) as (_, stub),
    ):
        owner.simulator.play("m", [*SPOKEN, Gate("more"), Text([" and so on"] * 1000, tokens_per_second=200)])
        stream = await owner.generate("m", run_id="run-1")
        await stream.says("Hello")
        request = await owner.simulator.received()

        pending = await stub.Cancel(wire.CancelRequest(run_id="run-1", wait=Duration()))
        request.release("more")
        answer = await stub.Cancel(wire.CancelRequest(run_id="run-1"))
        await request.closed()

        assert (pending.outcome, text_of(pending.run)) == (wire.CancelResponse.OUTCOME_STOPPING, "Hello")
        assert answer.outcome == wire.CancelResponse.OUTCOME_CANCELLED
        assert answer.run == await stream.to_end()
        assert text_of(answer.run).startswith("Hello")
        assert request.closed_by == "client"


async def test_a_run_can_be_resumed_and_still_be_stopped_and_read_again(service: Service):
    """vercel/ai#6502: stop and resume do not exclude each other, in any order."""
    service.simulator.play("m", stepwise("Hel", "lo"))
    grace = run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_GRACE, grace=Duration(seconds=30))
    stream = await service.generate("m", run_id="run-1", on_detach=grace)
    request = await service.simulator.received()
    request.release("Hel")
    await stream.says("Hel")

    stream.call.cancel()
    resumed = service.watch("run-1", after_sequence=2, claim=True)
    request.release("lo")
    await resumed.says("lo")
    stopped = (await service.cancel("run-1")).run
    again = service.watch("run-1", after_sequence=3)

    assert (stopped.state, stopped.cancel_reason) == (CANCELLED, run_pb2.CANCEL_REASON_REQUESTED)
    assert text_of(stopped) == "Hello"
    assert await resumed.to_end() == await again.to_end() == stopped
    assert again.sequences == list(range(4, stopped.last_sequence + 1))


async def test_events_of_one_millisecond_are_told_apart(service: Service):
    """langgraph#8112: order and identity are the sequence and the offset, never a time."""
    pieces = [str(number % 10) for number in range(3_000)]
    service.simulator.play("m", streamed(Text(pieces, per_write=500)))
    stream = await service.generate("m", run_id="run-1")
    await stream.until(lambda event: event.HasField("delta"))

    early = service.watch("run-1", after_sequence=stream.events[-1].sequence)
    run = await stream.to_end()
    await early.to_end()

    middle = stream.events[len(stream.events) // 2]
    resumed = service.watch("run-1", after_sequence=middle.sequence)
    await resumed.to_end()
    for reader, after in ((stream, 0), (early, stream.events[1].sequence), (resumed, middle.sequence)):
        assert reader.sequences == list(range(after + 1, run.last_sequence + 1))
        offset = len("".join(pieces)) - len(reader.text)
        for event in reader.log:
            if event.delta.text:
                assert event.delta.offset == offset
                offset += len(event.delta.text)
    assert stream.text == "".join(pieces)


async def test_a_cursor_can_be_had_with_the_prefix(service: Service):
    """openai-node#1984: who has the cursor and lost the text asks for a snapshot; the end has all of it anyway."""
    service.simulator.play("m", stepwise("Hel", "lo", "!"))
    stream = await service.generate("m", run_id="run-1")
    request = await service.simulator.received()
    for piece, text in (("Hel", "Hel"), ("lo", "Hello")):
        request.release(piece)
        await stream.says(text)

    bare = service.watch("run-1", after_sequence=3)
    whole = service.watch("run-1", from_snapshot=True)
    prefix = (await whole.next()).snapshot.run
    request.release("!")
    request.release("finish")
    runs = [await reader.to_end() for reader in (stream, bare, whole)]

    assert (bare.text, text_of(prefix) + whole.text) == ("!", "Hello!")
    assert bare.sequences == whole.sequences
    assert runs[0] == runs[1] == runs[2]
    assert text_of(runs[1]) == "Hello!"


@pytest.mark.parametrize(
    "script",
    [[*SPOKEN, Done()], [Role(), Done()], [Done()], [*SPOKEN, Cut()]],
    ids=["text and [DONE]", "role and [DONE]", "[DONE]", "closed"],
)
async def test_a_dead_upstream_is_not_shown_as_a_clean_end(service: Service, script: Script):
    """bifrost#5546: `[DONE]` is no finish; without a finish reason the answer was cut."""
    service.simulator.play("m", script)

    stream = await service.generate("m")
    run = await stream.to_end()

    info = error_details_pb2.ErrorInfo()
    assert run.state == run_pb2.RUN_STATE_FAILED
    assert run.error.details[0].Unpack(info)
    assert (info.reason, info.metadata["retryable"]) == ("UPSTREAM_TRUNCATED", "true")
    assert run.finish_reason == run_pb2.FINISH_REASON_UNSPECIFIED
    assert text_of(run) == stream.text


async def test_half_a_tool_call_does_not_poison_the_next_request(service: Service):
    """pydantic-ai#7977: it is readable as it was streamed; what goes back as history does without it."""
    half = ToolCall(['{"city": "Par'], id="call_1", name="weather")
    service.simulator.play("m", [Role(), Text(["Let me look. "]), half, Stall()])
    stream = await service.generate("m", run_id="run-1")
    await stream.until(lambda event: event.delta.tool_call.arguments != "")
    streamed_run = (await service.cancel("run-1")).run

    replay = await service.get("run-1", message_view=wire.MESSAGE_VIEW_REPLAY)
    question = run_pb2.Message(role=run_pb2.ROLE_USER, parts=[run_pb2.Part(text=run_pb2.Text(text="Never mind."))])
    request = wire.GenerateRequest(model="sim/count-2", messages=[question, replay.message, question])
    await service.stub.Generate(request).read()

    call = streamed_run.message.parts[1]
    assert (call.tool_call.arguments, call.state) == ('{"city": "Par', run_pb2.PART_STATE_TRUNCATED)
    sent = (await service.simulator.received(2)).body["messages"]
    assert [each["role"] for each in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == "Let me look. "
    assert not any(each.get("tool_calls") for each in sent)


async def test_the_store_is_not_written_once_per_delta(monkeypatch: pytest.MonkeyPatch):
    """LibreChat#14614: what comes while a write is under way goes into the next one, all of it."""
    async with flaky_service(monkeypatch) as (service, store):
        text = "".join(f"{number} " for number in range(400))
        service.simulator.play("m", [Role(), Text(words(text), per_write=5), Gate("end"), Finish()])
        store.freeze("append")
        stream = await service.generate("m", run_id="run-1")
        await _received_bytes(service, "run-1", len(text))
        written_meanwhile = store.calls["append"]
        await store.thaw()
        (await service.simulator.received()).release("end")
        run = await stream.to_end()

        assert text_of(run) == stream.text == text
        assert (written_meanwhile, store.calls["append"], run.last_sequence) == (1, 2, 4)


async def _received_bytes(service: Service, run_id: str, count: int) -> None:
    """Asks until the server has as much from the upstream, stored or not, by its estimate of the usage."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (await service.get(run_id)).usage.output.value < (count + 3) // 4:
            pass
