"""What a parser costs per event, for each dialect, beside nothing but decoding the JSON of the same bytes.

The answer is what a reasoning model with tools streams: thoughts, text, a tool call, its ending; an event per token,
each in a read of its own, as a network delivers them. json and msgspec get the data of the events, framing done.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

from bench.processes import table
from midstream_server.upstreams.anthropic import AnthropicDialect
from midstream_server.upstreams.base import Dialect, ModelFinished, Profile
from midstream_server.upstreams.cohere import CohereDialect
from midstream_server.upstreams.gemini import GeminiDialect
from midstream_server.upstreams.ollama import OllamaDialect
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from midstream_simulator import Reasoning, Text, ToolCall, chat, cohere, gemini, messages, ollama, responses
from midstream_simulator.dialect import Dialect as Encoding
from midstream_simulator.steps import streamed

_ANSWER = streamed(
    Reasoning(["Moss", " grows", " where", " it", " is"] * 100),
    Text(["Moss", " is", " a", " small", " plant", ", “", "soft", "”", " and\n", " green", " 🌿"] * 150),
    ToolCall(['{"ci', 'ty": "', *["Pa", "ri"] * 50, 's"}'], id="call_1", name="weather"),
    finish="tool_calls",
)
_REQUEST = {"model": "painter-1", "messages": [], "stream": True}
_DIALECTS: tuple[tuple[Dialect, Encoding], ...] = (
    (OpenAIChatDialect(), chat.ChatDialect()),
    (OpenAIResponsesDialect(), responses.ResponsesDialect()),
    (AnthropicDialect(), messages.MessagesDialect()),
    (GeminiDialect(), gemini.GeminiDialect()),
    (OllamaDialect(), ollama.OllamaDialect()),
    (CohereDialect(), cohere.CohereDialect()),
)


def measure(rounds: int) -> str:
    """The table: medians of interleaved rounds, in CPU microseconds per event."""
    rows = [["dialect", "events", "bytes each", "parser", "json.loads", "msgspec", "parser : json.loads"]]
    for dialect, encoding in _DIALECTS:
        events = _events(encoding)
        data = [found for event in events if (found := _data(event))]
        _check(dialect, events)
        ways: tuple[Callable[[], object], ...] = (
            lambda dialect=dialect, events=events: _parse(dialect, events),  # type: ignore[misc] # bound here on purpose
            lambda data=data: [json.loads(each) for each in data],  # type: ignore[misc] # as above
            lambda data=data: [msgspec.json.decode(each) for each in data],  # type: ignore[misc] # as above
        )
        costs = [[_cost(way) for way in ways] for _ in range(rounds)]
        parser, plain, fast = (statistics.median(each) / len(data) for each in zip(*costs, strict=True))
        size = sum(map(len, events)) // len(events)
        numbers = [f"{cost:.2f}" for cost in (parser, plain, fast, parser / plain)]
        rows.append([dialect.name, str(len(data)), str(size), *numbers])
    return table(rows)


def _events(encoding: Encoding) -> list[bytes]:
    encoder = encoding.encoder(_REQUEST, 1)
    steps = [encoder.frames(step) for step in _ANSWER]  # type: ignore[arg-type] # the model's words, no commands
    return [frames.render(number) for frames in steps for number in range(frames.count)]


def _data(event: bytes) -> bytes:
    """The JSON in an event or a line."""
    line = event.strip().rpartition(b"\n")[2].removeprefix(b"data: ")
    return b"" if line == b"[DONE]" else line


def _parse(dialect: Dialect, events: Sequence[bytes]) -> None:
    parser = dialect.parser(Profile())
    for event in events:
        parser.feed(event)
    parser.close()


def _check(dialect: Dialect, events: Sequence[bytes]) -> None:
    """What is measured must be read."""
    parser = dialect.parser(Profile())
    found = [each for event in events for each in parser.feed(event)] + parser.close()
    if not any(isinstance(each, ModelFinished) for each in found) or len(found) < len(events) / 2:
        raise ValueError(f"{dialect.name} does not read its own stream")


def _cost(way: Callable[[], object]) -> float:
    start = time.process_time_ns()
    way()
    return (time.process_time_ns() - start) / 1000
