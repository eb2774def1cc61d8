"""The scenarios, as scenarios.json says them, for both kinds."""

import grpc

from interop.python.expect import expect, expect_run, new_id, refused
from interop.python.raw_caller import RawCaller
from interop.python.stage import Stage, to_end, until
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_client import ConversationPolicy

Code = grpc.StatusCode
Outcome = service_wire.CancelResponse
HELLO = "Hello, world"


async def complete(stage: Stage) -> None:
    run_id = new_id("complete")
    async with stage.caller() as caller:
        run = await stage.complete(caller, run_id, "hello")
        expect_run(run, wire.RUN_STATE_COMPLETED, HELLO, run_id=run_id, model=stage.model("hello"), attempts=1)
        expect((run.finish_reason, run.cancel_reason), (wire.FINISH_REASON_STOP, 0), "finish and cancel reason")
        expect([part.state for part in run.message.parts], [wire.PART_STATE_COMPLETE], "states of parts")
        expect((run.usage.output.value, run.usage.output.source), (3, wire.USAGE_SOURCE_UPSTREAM_FINAL), "output usage")
        expect(await caller.get(run_id), run, "GetRun")
    await stage.expect_upstream(run_id, requests=1)


async def time_limit(stage: Stage) -> None:
    run_id = new_id("time_limit")
    limits = wire.RunLimits()
    limits.total.FromMilliseconds(300)
    async with stage.caller() as caller:
        run = await stage.complete(caller, run_id, "stall", limits=limits)
    expect_run(run, wire.RUN_STATE_CANCELLED, "1 2 3", cancel_reason=wire.CANCEL_REASON_TIME_LIMIT)
    expect(run.message.parts[0].state, wire.PART_STATE_TRUNCATED, "state of the part")
    await stage.expect_upstream(run_id, requests=1)


async def slow_reader(stage: Stage) -> None:
    run_id = new_id("slow_reader")
    async with stage.caller() as caller, stage.caller() as elsewhere:
        reader = await stage.start(caller, run_id, "large")
        if stage.is_raw:
            await reader.next()
        else:
            await stage.control("/upstream/arrived", run_id=run_id)
        ended = await elsewhere.get(run_id, wait=True)
        expect_run(ended, wire.RUN_STATE_COMPLETED, "0123456789abcdef" * 196_000)
        expect(await to_end(reader), ended, "the final run")


async def large_message(stage: Stage) -> None:
    run_id, text = new_id("large_message"), "0123456789abcdef" * 196_000
    async with stage.caller() as caller:
        run = await stage.complete(caller, run_id, "large")
        expect_run(run, wire.RUN_STATE_COMPLETED, text)
        expect(await caller.get(run_id), run, "GetRun")
        watched = await (await caller.watch(run_id, from_snapshot=True)).final()
        expect_run(watched, wire.RUN_STATE_COMPLETED, text)


async def unicode_everywhere(stage: Stage) -> None:
    run_id, other = new_id("unicode_everywhere"), new_id("unicode_everywhere")
    text = bytes.fromhex(_UNICODE).decode()
    labels = {"k": "ключ 🔑"}
    async with stage.caller() as caller:
        prompt = f"{run_id}\n{text}"
        run = await to_end(await caller.start(run_id, stage.model("unicode"), prompt, labels=labels))
        expect_run(run, wire.RUN_STATE_COMPLETED, text)
        expect(dict(run.labels), labels, "labels")
        expect((await stage.control("/upstream/see", run_id=run_id))["prompt"], prompt, "the prompt upstream")
        await until(await stage.start(caller, other, "stall"), "1 2 3")
        expect((await caller.cancel(other, "стоп ✋")).run.cancel.reason, "стоп ✋", "reason")


async def tool_call_cut(stage: Stage) -> None:
    run_id, other = new_id("tool_call_cut"), new_id("tool_call_cut")
    tools = [service_wire.Tool(name="get_weather", parameters_schema='{"type":"object"}')]
    async with stage.caller() as caller:
        reader = await stage.start(caller, run_id, "tool", tools=tools)
        while reader.transcript.arguments != '{"city"':
            expect(await reader.next(), True, "the stream goes on")
        answer = await caller.cancel(run_id)
        expect(answer.outcome, Outcome.OUTCOME_CANCELLED, "outcome")
        call = wire.ToolCall(id="call_1", name="get_weather", arguments='{"city"')
        cut = wire.Part(tool_call=call, state=wire.PART_STATE_TRUNCATED)
        expect(list(answer.run.message.parts), [cut], "parts")
        expect((await caller.get(run_id, replay=True)).HasField("message"), False, "whether REPLAY has a message")
        expect(list((await caller.get(run_id)).message.parts), [cut], "parts of GetRun")
        reader = await stage.start(caller, other, "tool", tools=tools)
        await stage.open(other, "half", "end")
        run = await to_end(reader)
        expect_run(run, wire.RUN_STATE_COMPLETED, "", finish_reason=wire.FINISH_REASON_TOOL_CALLS)
        call.arguments = '{"city": "Paris"}'
        expect(list(run.message.parts), [wire.Part(tool_call=call, state=wire.PART_STATE_COMPLETE)], "parts")


async def reasoning(stage: Stage) -> None:
    run_id = new_id("reasoning")
    async with stage.caller() as caller:
        reader = await stage.start(caller, run_id, "thinking")
        while reader.transcript.reasoning != "First, think.":
            expect(await reader.next(), True, "the stream goes on")
        expect(reader.transcript.text, "", "text")
        await stage.open(run_id, "answer")
        run = await to_end(reader)
        expect_run(run, wire.RUN_STATE_COMPLETED, "The answer.")
        state = wire.PART_STATE_COMPLETE
        thinking = wire.Part(reasoning=wire.Reasoning(text="First, think."), state=state)
        expect(list(run.message.parts), [thinking, _text_part("The answer.", state)], "parts")


async def duplicate_start(stage: Stage) -> None:
    run_id = new_id("duplicate_start")
    async with stage.reading(run_id, "words", "one", "one") as (caller, reader), stage.caller() as elsewhere:
        second = await stage.start(elsewhere, run_id, "words")
        await until(second, "one")
        await stage.open(run_id, "two", "three", "end")
        run = await to_end(reader)
        expect_run(run, wire.RUN_STATE_COMPLETED, "one two three")
        expect(await to_end(second), run, "the final run of the second stream")
        expect(await stage.complete(caller, run_id, "words"), run, "the final run of the third stream")
    await stage.expect_upstream(run_id, requests=1)


async def conflicting_start(stage: Stage) -> None:
    run_id = new_id("conflicting_start")
    async with stage.caller() as caller:
        run = await stage.complete(caller, run_id, "hello")
        other = await caller.start(run_id, stage.model("hello"), f"{run_id}\nother")
        await refused(other.final(), Code.ALREADY_EXISTS, "RUN_ID_CONFLICT")
        await other.leave()
        expect(await caller.get(run_id), run, "GetRun")
    await stage.expect_upstream(run_id, requests=1)


async def watch_after_end(stage: Stage) -> None:
    run_id = new_id("watch_after_end")
    async with stage.caller() as caller:
        run = await stage.complete(caller, run_id, "hello")
        expect(await to_end(await caller.watch(run_id)), run, "the final run of a watch")
        last = await caller.watch(run_id, after=run.last_sequence - 1)
        expect(await last.final(), run, "the final run of a watch from before the end")
        expect(last.transcript.parts, {}, "deltas before the end")
        over = await caller.watch(run_id, after=run.last_sequence)
        expect(await over.next(), False, "whether anything comes after the end")
        if not stage.is_raw:
            expect(await over.final(), run, "the result of a watch from the end")
        ahead = await caller.watch(run_id, after=run.last_sequence + 5)
        await refused(ahead.next(), Code.OUT_OF_RANGE, "CURSOR_AHEAD")


async def watch_from_snapshot(stage: Stage) -> None:
    run_id = new_id("watch_from_snapshot")
    async with stage.reading(run_id, "words", "one two", "one two") as (_, reader), stage.caller() as elsewhere:
        observer = await elsewhere.watch(run_id, from_snapshot=True)
        await until(observer, "one two")
        passer_by = await elsewhere.watch(run_id)
        await until(passer_by, "one two")
        await passer_by.leave()
        await stage.open(run_id, "three", "end")
        expect_run(await to_end(observer), wire.RUN_STATE_COMPLETED, "one two three")
        expect_run(await to_end(reader), wire.RUN_STATE_COMPLETED, "one two three")


async def unknown_run(stage: Stage) -> None:
    run_id = new_id("unknown_run")
    async with stage.caller() as caller:
        await refused(caller.get(run_id), Code.NOT_FOUND, "RUN_NOT_FOUND")
        await refused((await caller.watch(run_id)).next(), Code.NOT_FOUND, "RUN_NOT_FOUND")
        await refused(caller.delete(run_id), Code.NOT_FOUND, "RUN_NOT_FOUND")
        reader = await caller.start(run_id, "nowhere/x", run_id)
        await refused(reader.next(), Code.NOT_FOUND, "MODEL_NOT_FOUND")
        await reader.leave()
        await refused(caller.get(run_id), Code.NOT_FOUND, "RUN_NOT_FOUND")


async def invalid_argument(stage: Stage) -> None:
    parameters = service_wire.GenerationParameters(temperature=9)
    async with stage.caller() as caller:
        reader = await caller.start(
            "not an id", stage.model("hello"), "hi", parameters=parameters, labels={"k": "x" * 257}
        )
        failure = await refused(reader.next(), Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    expect({name for name, _ in failure.fields}, {"run_id", "parameters.temperature", 'labels["k"]'}, "fields")
    expect(all(description for _, description in failure.fields), True, "whether each has a description")


async def list_pages(stage: Stage) -> None:
    run_ids = [new_id("list_pages") for _ in range(5)]
    labels = {"group": run_ids[0]}
    async with stage.caller() as caller:
        for run_id in run_ids:
            await stage.complete(caller, run_id, "hello", labels=labels)
        runs = await caller.list(labels, page_size=2)
        expect([run.run_id for run in runs], run_ids[::-1], "runs")
        shown = {(run.state, run.HasField("message")) for run in runs}
        expect(shown, {(wire.RUN_STATE_COMPLETED, False)}, "states, and whether there are messages")
        expect(await caller.list(labels, state=wire.RUN_STATE_CANCELLED), [], "cancelled runs")
        if isinstance(caller, RawCaller):
            await _pages(caller, labels)


async def _pages(caller: RawCaller, labels: dict[str, str]) -> None:
    first = await caller.page(labels, page_size=2)
    second = await caller.page(labels, page_size=2, page_token=first.next_page_token)
    third = await caller.page(labels, page_size=2, page_token=second.next_page_token)
    expect([len(page.runs) for page in (first, second, third)], [2, 2, 1], "runs on the pages")
    expect(third.next_page_token, "", "token after the last page")
    stray = caller.page({"group": "other"}, page_size=2, page_token=first.next_page_token)
    await refused(stray, Code.INVALID_ARGUMENT, "INVALID_REQUEST")


async def delete_and_expired(stage: Stage) -> None:
    run_id, live = new_id("delete_and_expired"), new_id("delete_and_expired")
    async with stage.caller() as caller:
        await stage.complete(caller, run_id, "hello")
        await caller.delete(run_id)
        await refused(caller.get(run_id), Code.NOT_FOUND, "RUN_EXPIRED")
        await refused((await caller.watch(run_id)).next(), Code.NOT_FOUND, "RUN_EXPIRED")
        await refused(caller.delete(run_id), Code.NOT_FOUND, "RUN_EXPIRED")
        await refused(stage.complete(caller, run_id, "hello"), Code.FAILED_PRECONDITION, "RUN_EXPIRED")
        await stage.expect_upstream(run_id, requests=1)
        await until(await stage.start(caller, live, "stall"), "1 2 3")
        await refused(caller.delete(live), Code.FAILED_PRECONDITION, "RUN_LIVE")
        expect((await caller.cancel(live)).outcome, Outcome.OUTCOME_CANCELLED, "outcome")


async def supersede(stage: Stage) -> None:
    first, busy, third = (new_id("supersede") for _ in range(3))
    conversation = {"conversation_id": f"c-{first}"}
    async with stage.reading(first, "words", "one", "one", **conversation) as (caller, reader):
        reject, replace = ConversationPolicy.REJECT, ConversationPolicy.SUPERSEDE
        work = stage.complete(caller, busy, "hello", on_conflict=reject, **conversation)
        await refused(work, Code.FAILED_PRECONDITION, "CONVERSATION_BUSY")
        run = await stage.complete(caller, third, "hello", on_conflict=replace, **conversation)
        expect_run(run, wire.RUN_STATE_COMPLETED, HELLO, superseded_run_ids=[first])
        reason = wire.CANCEL_REASON_SUPERSEDED
        expect_run(
            await to_end(reader), wire.RUN_STATE_CANCELLED, "one", cancel_reason=reason, superseded_by_run_id=third
        )
    await stage.expect_upstream(first, requests=1)


async def models(stage: Stage) -> None:
    async with stage.caller() as caller:
        answer = await caller.models()
    found = [model for model in answer.models if model.name == stage.model("hello")]
    expect([(model.upstream, model.dialect) for model in found], [("sim", "openai-chat")], "the model's upstream")
    expect(list(answer.unreachable_upstreams), [], "unreachable upstreams")


def _text_part(text: str, state: "wire.PartState.ValueType") -> wire.Part:
    return wire.Part(text=wire.Text(text=text), state=state)


_UNICODE = (
    "4772c3bcc39f652c20e4b896e7958c2120f09f91a9e2808df09f91a9e2808df09f91a7e2808df09f91a62065cc8120d7a9d7"
    "9cd795d79d20e280aee280a8c285efbbbf09225c0a20f09d849ef09f87a9f09f87aa2e"
)
