"""A stream that is cut at any byte leaves a message that strict providers take back as history (P10).

Each stream is fed a byte at a time. What a byte changes nothing in needs no second look; wherever it does, a run is
stopped right there, and another one ends there because its upstream does.
"""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine_scenario import Engine, running_engine, settle
from history_validators import anthropic_problems, chat_problems
from midstream_server.model import (
    CancelReason,
    FinishReason,
    Message,
    Part,
    Prompt,
    Role,
    Run,
    RunState,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from midstream_server.replay import replay_view
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Dialect, Profile, UpstreamEvent
from midstream_server.upstreams.cohere import CohereDialect
from midstream_server.upstreams.gemini import GeminiDialect
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from stream_folding import fold

CHAT, ANTHROPIC = OpenAIChatDialect(), AnthropicDialect()
DIALECTS: dict[str, Dialect] = {
    "openai_chat": CHAT,
    "anthropic": ANTHROPIC,
    "openai_responses": OpenAIResponsesDialect(),
    "gemini": GeminiDialect(),
    "cohere": CohereDialect(),
}
RECORDED = {
    "openai_chat/openai-parallel-tools.sse": "ToolCall ToolCall",
    "openai_chat/llamacpp-reasoning-tool.sse": "ToolCall",
    "openai_chat/openai-refusal.sse": "Refusal",
    "openai_chat/openrouter-midstream-error.sse": "",
    "anthropic/anthropic-parallel-tools.sse": "Text ToolCall ToolCall",
    "anthropic/anthropic-thinking.sse": "Reasoning Text",
    "anthropic/anthropic-max-tokens-cut-tool.sse": "Text",
    "openai_responses/openai-responses-summary-tool.sse": "Reasoning ToolCall",
    "gemini/gemini-thoughts-tool.sse": "ToolCall",
    "cohere/cohere-tools.sse": "ToolCall ToolCall",
}
"""What of the whole stream can be sent back."""


# --- Streams of our own, for a checkout that stands alone ------------------------------------------------------------


def _sse(*events: Mapping[str, object], named: bool = False) -> bytes:
    lines = [f"event: {event['type']}\n" if named else "" for event in events]
    return "".join(f"{line}data: {json.dumps(event)}\n\n" for line, event in zip(lines, events, strict=True)).encode()


def _chunk(delta: Mapping[str, object], finish: str | None = None) -> dict[str, object]:
    return {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def _call(index: int, **function: str) -> dict[str, object]:
    head = {"id": f"call_{index}", "type": "function"} if "name" in function else {}
    return _chunk({"tool_calls": [{"index": index, **head, "function": function}]})


def _chat_stream() -> bytes:
    return (
        _sse(
            _chunk({"role": "assistant", "content": ""}),
            _chunk({"reasoning_content": "Two\n"}),
            _chunk({"reasoning_details": [{"type": "reasoning.text", "text": "cities", "signature": "c2ln"}]}),
            _chunk({"content": " "}),
            _chunk({"content": "\n"}),
            _chunk({"content": "Let me see: 😀"}),
            _call(0, name="weather", arguments=""),
            _call(0, arguments='{"city": "Z'),
            _call(0, arguments='ürich"}'),
            _call(1, name="time", arguments='{"zone":'),
            _call(1, arguments=" {}}"),
            _chunk({}, "tool_calls"),
        )
        + b"data: [DONE]\n\n"
    )


def _broken_calls() -> bytes:
    """The model finishes for its calls, and only one of them is one: others have no name, or no JSON for everybody."""
    return (
        _sse(
            _call(0, name="weather", arguments='{"city": '),
            _call(1, name="half", arguments='{"smile": "\\ud83d"}'),
            _call(2, name="list", arguments="[1]"),
            _call(3, arguments="{}"),
            _call(4, name="time", arguments=""),
            _chunk({}, "tool_calls"),
        )
        + b"data: [DONE]\n\n"
    )


def _anthropic_stream() -> bytes:
    def start(index: int, block: Mapping[str, object]) -> dict[str, object]:
        return {"type": "content_block_start", "index": index, "content_block": block}

    def delta(index: int, kind: str, **value: str) -> dict[str, object]:
        return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **value}}

    def stop(index: int) -> dict[str, object]:
        return {"type": "content_block_stop", "index": index}

    usage = {"input_tokens": 3, "output_tokens": 1}
    message = {"id": "msg", "type": "message", "role": "assistant", "content": [], "model": "m", "usage": usage}
    return _sse(
        {"type": "message_start", "message": message},
        start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        delta(0, "thinking_delta", thinking="Two "),
        delta(0, "thinking_delta", thinking="cities."),
        delta(0, "signature_delta", signature="c2lnbmF0dXJl"),
        stop(0),
        start(1, {"type": "redacted_thinking", "data": "b3BhcXVl"}),
        stop(1),
        start(2, {"type": "text", "text": ""}),
        delta(2, "text_delta", text=" \n"),
        delta(2, "text_delta", text="Let me see. "),
        stop(2),
        start(3, {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}),
        delta(3, "input_json_delta", partial_json=""),
        delta(3, "input_json_delta", partial_json='{"city": "Z'),
        delta(3, "input_json_delta", partial_json='urich"}'),
        stop(3),
        start(4, {"type": "tool_use", "id": "toolu_2", "name": "time", "input": {}}),
        stop(4),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
        named=True,
    )


OWN = {
    "openai_chat/own": (_chat_stream(), "Reasoning Text weather time"),
    "openai_chat/broken calls": (_broken_calls(), "time"),
    "anthropic/own": (_anthropic_stream(), "Reasoning Reasoning Text weather time"),
}
"""Each with what of the whole stream can be sent back."""


# --- Cutting ---------------------------------------------------------------------------------------------------------


Cut = tuple[int, Sequence[UpstreamEvent], Sequence[UpstreamEvent]]


def cuts(dialect: Dialect, body: bytes) -> Iterator[Cut]:
    """Every place where a cut makes a difference: how many bytes, what they said, what the end then adds."""
    parser, whole_lines, said = dialect.parser(Profile()), dialect.parser(Profile()), list[UpstreamEvent]()
    line_begin = 0
    before: list[UpstreamEvent] | None = None
    for position in range(len(body) + 1):
        byte = body[position - 1 : position] if position else b""
        news = parser.feed(byte)
        said += news
        if byte == b"\n":
            whole_lines.feed(body[line_begin:position])
            line_begin = position
        # A copy of what was fed in lines is quick: a line that came byte by byte would be a list of its bytes.
        cut = copy.deepcopy(whole_lines)
        cut.feed(body[line_begin:position])
        added = cut.close()
        if news or before is None or list(map(repr, added)) != list(map(repr, before)):
            yield position, tuple(said), tuple(added)
            before = added


async def stopped_here(engine: Engine, name: str, said: Sequence[UpstreamEvent]) -> Run:
    """A run that is cancelled after these events: Cancel and GetRun agree, and nothing of the fragment is lost."""
    index = len(engine.upstream.calls)
    stream = await engine.start(name)
    call = await engine.call(index)
    call.say(*said)
    await settle()
    _, cancelled = await engine.cancel(name)
    run = await engine.get(name)

    assert cancelled == run == await stream.rest()
    assert run.state.is_ending
    _check_raw(run, said)
    if run.state is RunState.CANCELLED:
        assert (run.cancel_reason, run.finish_reason) == (CancelReason.REQUESTED, None)
    return run


async def ended_here(engine: Engine, name: str, said: Sequence[UpstreamEvent]) -> Run:
    """A run whose upstream ends after these events."""
    index = len(engine.upstream.calls)
    stream = await engine.start(name)
    call = await engine.call(index)
    call.say(*said)
    call.end()
    run = await stream.rest()

    assert run == await engine.get(name)
    _check_raw(run, said)
    return run


def _check_raw(run: Run, said: Sequence[UpstreamEvent]) -> None:
    """AS_STREAMED: every fragment is there, byte for byte."""
    parts = run.message.parts if run.message else ()
    shown = [_raw(part) for part in parts]
    assert shown == [part.text for part in fold(said).parts.values()]


def _raw(part: Part) -> str:
    return part.content.arguments if isinstance(part.content, ToolCall) else getattr(part.content, "text", "")


# --- Sending back ----------------------------------------------------------------------------------------------------


def history(replay: Message | None) -> Prompt:
    """A conversation that goes on after this answer."""
    question = Message(role=Role.USER, parts=(Part(content=Text(text="What is the weather?")),))
    goes_on = Message(role=Role.USER, parts=(Part(content=Text(text="And now?")),))
    messages = [question]
    tools: list[Tool] = []
    if replay is not None:
        messages.append(replay)
        calls = [part.content for part in replay.parts if isinstance(part.content, ToolCall)]
        tools = [Tool(name=name, parameters_schema='{"type": "object"}') for name in {call.name for call in calls}]
        sunny = (Part(content=Text(text="sunny")),)
        results = tuple(Part(content=ToolResult(tool_call_id=call.id, parts=sunny)) for call in calls)
        if results:
            messages.append(Message(role=Role.TOOL, parts=results))
    return Prompt(messages=(*messages, goes_on), tools=tuple(tools))


def body_of(dialect: Dialect, prompt: Prompt) -> dict[str, Any]:
    """What would be sent."""
    body = json.loads(dialect.build_request("model", prompt, Profile()).body)
    assert isinstance(body, dict)
    return body


def check_replay(run: Run, came_from: str) -> None:
    """Every dialect can say it, and the two strict validators find nothing."""
    replay = replay_view(run).message
    prompt = history(replay)
    bodies = {name: body_of(dialect, prompt) for name, dialect in DIALECTS.items()}
    own_keys = frozenset({"reasoning_details"}) if came_from == "openai_chat" else frozenset[str]()
    assert chat_problems(bodies["openai_chat"], extra_keys=own_keys) == []
    assert anthropic_problems(bodies["anthropic"]) == []
    if run.finish_reason is not FinishReason.TOOL_CALLS:
        assert not any(isinstance(part.content, ToolCall) for part in (replay.parts if replay else ()))


async def check_every_cut(name: str, body: bytes) -> list[Run]:
    """Stops and ends runs at every cut of a stream; the runs."""
    came_from = name.split("/")[0]
    runs: list[Run] = []
    async with running_engine() as engine:
        for position, said, added in cuts(DIALECTS[came_from], body):
            runs.append(await stopped_here(engine, f"stopped-{position}", said))
            runs.append(await ended_here(engine, f"ended-{position}", [*said, *added]))
    for run in runs:
        check_replay(run, came_from)
    return runs


# --- The tests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN)
async def test_every_cut_of_our_own_streams_can_be_sent_back(name: str):
    """Thinking, white space, text and tool calls: each dialect takes what is left of it."""
    body, expected = OWN[name]
    runs = await check_every_cut(name, body)

    kept = replay_view([run for run in runs if run.state is RunState.COMPLETED][-1]).message
    assert kept is not None
    assert " ".join(_named(part) for part in kept.parts) == expected
    assert len({repr(run.message) for run in runs}) > 5


def _named(part: Part) -> str:
    return part.content.name if isinstance(part.content, ToolCall) else type(part.content).__name__


@pytest.mark.recorded
@pytest.mark.parametrize("name", RECORDED)
async def test_every_cut_of_a_recorded_stream_can_be_sent_back(name: str, recordings: Path):
    """What a real provider sent, cut at every byte; the view throws nothing away that is whole."""
    runs = await check_every_cut(name, (recordings / name).read_bytes())

    kept = replay_view(runs[-1]).message
    assert " ".join(type(part.content).__name__ for part in (kept.parts if kept else ())) == RECORDED[name]
    assert any(replay_view(run).message is None for run in runs)
