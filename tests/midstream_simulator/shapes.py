"""What a model's name tells the simulator to do; the table is in the package's docstring."""

import re
from collections.abc import Callable, Sequence

from midstream_simulator.dialect import Dialect, JsonObject
from midstream_simulator.steps import (
    Cut,
    Error,
    Reasoning,
    Refusal,
    Reset,
    Respond,
    Role,
    Script,
    Stall,
    Stamps,
    Step,
    Text,
    ToolCall,
    streamed,
    words,
)

EXAMPLES = ("echo", "count-10", "count-100-50", "reason-5", "refuse", "tool-call", "stall", "bench-n100-r50")
"""Names that GET /v1/models lists."""

_ARGUMENTS = ("{", '"city"', ': "Par', 'is"}')
_FLAT_OUT_PER_WRITE = 256


def _count(count: int) -> list[str]:
    return [str(number) if number == 1 else f" {number}" for number in range(1, count + 1)]


def _clipped(pieces: Sequence[str], limit: int | None, rate: float) -> Script:
    """A text, or as much of it as the request allows."""
    if limit is None or limit >= len(pieces):
        return streamed(Text(pieces, tokens_per_second=rate))
    return streamed(Text(pieces[:limit], tokens_per_second=rate), finish="length")


def _after(count: int, step: Step) -> Script:
    return [Role(), Text(_count(count)), step]


class _Shapes:
    """The scripts of one request. Each method takes what its pattern captured."""

    def __init__(self, dialect: Dialect, body: JsonObject) -> None:
        self._dialect = dialect
        self._body = body
        self._limit = dialect.max_tokens(body)

    def echo(self, rate: str | None) -> Script:
        return _clipped(words(self._dialect.last_user_text(self._body)), self._limit, float(rate or 0))

    def count(self, count: str, rate: str | None) -> Script:
        return _clipped(_count(int(count)), self._limit, float(rate or 0))

    def reason(self, count: str, rate: str | None) -> Script:
        return streamed(Reasoning(_count(int(count)), tokens_per_second=float(rate or 0)), Text(["Done."]))

    def refuse(self) -> Script:
        return streamed(Refusal(words("I can't help with that.")))

    def tool_call(self, rate: str | None) -> Script:
        name = next(iter(self._dialect.tool_names(self._body)), "get_weather")
        call = ToolCall(_ARGUMENTS, id="call_simulated_1", name=name, tokens_per_second=float(rate or 0))
        return streamed(call, finish="tool_calls")

    def stall(self, count: str | None) -> Script:
        return _after(int(count or 0), Stall())

    def stall_headers(self) -> Script:
        return [Stall()]

    def cut(self, inside: str | None, count: str) -> Script:
        return _after(int(count), Cut(inside_chunk=bool(inside)))

    def reset(self, count: str) -> Script:
        return _after(int(count), Reset())

    def error(self, status: str) -> Script:
        return [Respond(int(status))]

    def error_frame(self, count: str) -> Script:
        return _after(int(count), Error())

    def bench(self, count: str, rate: str) -> Script:
        per_write = 1 if float(rate) else _FLAT_OUT_PER_WRITE
        return streamed(Stamps(int(count), tokens_per_second=float(rate), per_write=per_write))


_RATE = r"(?:-(\d+(?:\.\d+)?))?"
_PATTERNS: Sequence[tuple[str, Callable[..., Script]]] = (
    (rf"echo{_RATE}", _Shapes.echo),
    (rf"count-(\d+){_RATE}", _Shapes.count),
    (rf"reason-(\d+){_RATE}", _Shapes.reason),
    (r"refuse", _Shapes.refuse),
    (rf"tool-call{_RATE}", _Shapes.tool_call),
    (r"stall(?:-(\d+))?", _Shapes.stall),
    (r"stall-headers", _Shapes.stall_headers),
    (r"cut-(chunk-)?(\d+)", _Shapes.cut),
    (r"reset-(\d+)", _Shapes.reset),
    (r"error-([45]\d\d)", _Shapes.error),
    (r"error-frame-(\d+)", _Shapes.error_frame),
    (r"bench-n(\d+)-r(\d+(?:\.\d+)?)", _Shapes.bench),
)


def script_for(model: str, dialect: Dialect, body: JsonObject) -> Script | None:
    """The script that a model's name stands for. None: it stands for nothing."""
    for pattern, shape in _PATTERNS:
        if found := re.fullmatch(pattern, model):
            return shape(_Shapes(dialect, body), *found.groups())
    return None
