"""`continue_from`: the text of ended runs as the beginning of an answer, or a typed error and no upstream call."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from engine_scenario import Engine, run_spec, running_engine, text_of
from midstream_server.errors import ContinueUnsupported, MidstreamError, RunExpired, RunLive, RunNotFound
from midstream_server.model import (
    GenerationParameters,
    JsonObjectFormat,
    JsonSchemaFormat,
    PartState,
    Prompt,
    ReasoningDelta,
    RefusalDelta,
    Role,
    RunState,
    Text,
    TextDelta,
    ToolCallDelta,
)
from midstream_server.upstreams.base import PartDelta, UpstreamEvent
from scripted_upstream import finish, text

PIECES = ("  Grüße,\n", "das \u2028 ist\t", "👩\u200d👩\u200d👧 e\u0301 ")
CLOSED = PartState.COMPLETE


def say(part: str, payload: TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta, end: PartState | None = None):
    """More of a part, which may be its end."""
    return PartDelta(part=part, payload=payload, part_end=end)


async def answer(engine: Engine, run_id: str, *events: UpstreamEvent, **spec) -> None:
    """A run that says this and is then cut off by its upstream."""
    index = len(engine.upstream.calls)
    stream = await engine.start(run_id, **spec)
    call = await engine.call(index)
    call.say(*events)
    call.end()
    await stream.rest()


def prefix_of(engine: Engine, index: int) -> str | None:
    """What a call was told to go on with: one part of text, or nothing."""
    prefix = engine.upstream.calls[index].prompt.prefix
    if prefix is None:
        return None
    assert (prefix.role, len(prefix.parts)) == (Role.ASSISTANT, 1)
    content = prefix.parts[0].content
    assert isinstance(content, Text)
    return content.text


@asynccontextmanager
async def continuing_engine() -> AsyncIterator[Engine]:
    """An engine whose upstream can go on with a text."""
    async with running_engine() as engine:
        engine.upstream.supports_continue = True
        yield engine


async def refused(engine: Engine, error: type[MidstreamError], **spec) -> MidstreamError:
    """The error of a start that reaches no upstream and leaves no run."""
    calls = len(engine.upstream.calls)
    with pytest.raises(error) as caught:
        await engine.start("new", **spec)
    assert len(engine.upstream.calls) == calls
    with pytest.raises(RunNotFound):
        await engine.get("new")
    return caught.value


async def test_the_prefix_is_the_text_byte_for_byte_and_the_new_message_holds_only_the_new_text():
    """White space at both ends, separators and joined characters are as the model said them."""
    async with continuing_engine() as engine:
        await answer(engine, "old", *(text(piece) for piece in PIECES))
        await answer(engine, "new", text("weiter"), finish(), continue_from="old")

        old, new = await engine.get("old"), await engine.get("new")
        assert prefix_of(engine, 1) == "".join(PIECES) == text_of(old.message)
        assert (text_of(new.message), new.continued_from, new.state) == ("weiter", "old", RunState.COMPLETED)
        assert old.continued_from == ""


async def test_a_chain_goes_on_with_all_its_texts():
    """Each run has only its own text, so the model needs those before it as well, in order."""
    async with continuing_engine() as engine:
        for run_id, earlier, piece in zip("abcd", ("", "a", "b", "c"), (*PIECES, "x"), strict=True):
            await answer(engine, run_id, text(piece), continue_from=earlier)

        assert [prefix_of(engine, index) for index in range(4)] == [
            None,
            PIECES[0],
            PIECES[0] + PIECES[1],
            "".join(PIECES),
        ]


async def test_texts_of_several_parts_are_joined_and_whole_reasoning_is_left_out():
    """What the model thought before it answered is not part of the answer."""
    async with continuing_engine() as engine:
        thought = say("r", ReasoningDelta("hm"), CLOSED)
        await answer(engine, "old", thought, say("t1", TextDelta("one "), CLOSED), say("t2", TextDelta("two")))
        await answer(engine, "new", continue_from="old")

        assert prefix_of(engine, 1) == "one two"


async def test_a_run_without_text_gives_no_prefix():
    """There is nothing to go on with: the new run begins at the beginning, and says what it came from."""
    async with continuing_engine() as engine:
        await answer(engine, "old")
        await answer(engine, "new", text("all of it"), continue_from="old")

        assert prefix_of(engine, 1) is None
        assert (await engine.get("new")).continued_from == "old"


@pytest.mark.parametrize(
    "events",
    [
        [text("I look. "), say("c", ToolCallDelta(id="1", name="f", arguments='{"a'))],
        [text("I look. "), say("c", ToolCallDelta(id="1", name="f", arguments="{}"), CLOSED)],
        [say("r", ReasoningDelta("hm, "))],
        [say("t", TextDelta("so"), CLOSED), say("r", ReasoningDelta("hm, "))],
        [say("f", RefusalDelta("I cannot"))],
    ],
    ids=["open tool call", "whole tool call", "open reasoning", "open reasoning after text", "refusal"],
)
async def test_what_is_more_than_text_is_not_continued(events):
    """Never with a tool call or an open thought; also not further down the chain."""
    async with continuing_engine() as engine:
        await answer(engine, "old", *events)
        await refused(engine, ContinueUnsupported, continue_from="old")


async def test_an_answer_that_must_fit_a_schema_is_not_continued():
    """The new text alone would not fit it; a JSON object without a schema is the caller's business."""
    async with continuing_engine() as engine:
        await answer(engine, "old", text('{"a": '))
        schema = GenerationParameters(response_format=JsonSchemaFormat(name="s", schema="{}"))
        json = GenerationParameters(response_format=JsonObjectFormat())

        await refused(engine, ContinueUnsupported, continue_from="old", prompt=Prompt(messages=(), parameters=schema))
        await answer(engine, "new", continue_from="old", prompt=Prompt(messages=(), parameters=json))

        assert prefix_of(engine, 1) == '{"a": '


async def test_an_upstream_that_cannot_continue_is_not_asked_to():
    """And its name is told."""
    async with continuing_engine() as engine:
        await answer(engine, "old", text("so far"))
        engine.upstream.supports_continue = False

        error = await refused(engine, ContinueUnsupported, continue_from="old")

        assert "scripted" in error.message


async def test_only_runs_that_have_ended_and_can_be_read_are_continued():
    """A live one would still grow; an unknown or deleted one has no text, also in the middle of a chain."""
    async with continuing_engine() as engine:
        await answer(engine, "first", text("a"))
        await answer(engine, "second", text("b"), continue_from="first")
        await engine.start("live")
        await engine.supervisor.delete("default", "first")

        await refused(engine, RunLive, continue_from="live")
        await refused(engine, RunNotFound, continue_from="nobody")
        await refused(engine, RunNotFound, continue_from="new")
        await refused(engine, RunExpired, continue_from="first")
        await refused(engine, RunExpired, continue_from="second")


async def test_another_tenants_run_cannot_be_continued():
    """P11: it is as unknown as one that never was."""
    async with continuing_engine() as engine:
        claim = engine.supervisor.new_claim("other", "old")
        theirs = await engine.supervisor.start(run_spec("old"), "1:theirs", claim)
        (await engine.call(0)).end()
        while await theirs.next():
            pass

        await refused(engine, RunNotFound, continue_from="old")


async def test_a_chain_without_end_is_refused():
    """A bound on what one start may read."""
    async with continuing_engine() as engine:
        await answer(engine, "0", text("."))
        for number in range(1, 65):
            await answer(engine, str(number), text("."), continue_from=str(number - 1))

        await refused(engine, ContinueUnsupported, continue_from="64")
        assert prefix_of(engine, 64) == "." * 64


async def test_a_repeat_attaches_though_what_it_continued_has_expired():
    """P6: an id that is taken needs no prefix; one start, one bill."""
    async with continuing_engine() as engine:
        await answer(engine, "old", text("so "))
        await answer(engine, "new", text("far"), finish(), continue_from="old")
        await engine.supervisor.delete("default", "old")
        engine.upstream.supports_continue = False

        again = await engine.start("new", continue_from="old")
        run = await again.rest()

        assert (again.text, run.state, run.continued_from) == ("far", RunState.COMPLETED, "old")
        assert len(engine.upstream.started_calls) == 2


async def test_a_remembered_cancel_is_met_before_the_continued_run_is_looked_for():
    """P4: the cancel came first, so there is nothing to be found wrong with the request."""
    async with continuing_engine() as engine:
        await engine.cancel("new")

        run = await (await engine.start("new", continue_from="nobody")).rest()

        assert run.state is RunState.CANCELLED
        assert engine.upstream.started_calls == []
