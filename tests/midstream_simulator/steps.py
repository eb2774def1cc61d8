"""Scripts: what the simulator does for one request, as data.

A step is an immutable value; its JSON is an object with `step` (the class name in snake case) and the fields below. The
head of the answer is sent by the first step that sends body bytes, or by `Head`; so a `Gate` or `Stall` before that
parks before the headers. When the script is over, the body is ended properly and the connection kept.
"""

import base64
import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec


def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class _Step(msgspec.Struct, frozen=True, tag_field="step", tag=_snake_case, forbid_unknown_fields=True):
    """What all steps share."""


class Paced(_Step, frozen=True, kw_only=True):
    """Pieces at a pace: the first at once, then one per interval. Neither given: as fast as they are read."""

    tokens_per_second: float = 0.0
    interval_ms: float = 0.0
    per_write: int = 1
    """How many pieces go into one HTTP chunk and one write."""

    @property
    def interval_seconds(self) -> float:
        """The time between two pieces; 0 is no pace."""
        return 1 / self.tokens_per_second if self.tokens_per_second else self.interval_ms / 1000


# --- What the model says: the dialect encodes it ---------------------------------------------------------------------


class Role(_Step, frozen=True):
    """The first chunk: the role, and no text (`content` may be null)."""

    content: str | None = ""


class Text(Paced, frozen=True):
    """Text, one chunk per piece."""

    pieces: Sequence[str]
    choice: int = 0


class Stamps(Paced, frozen=True):
    """Text for measuring: each piece is `T` and 16 hex digits, CLOCK_MONOTONIC in ns when it was sent."""

    count: int


class Reasoning(Paced, frozen=True):
    """Thinking, under one of the names that providers have for it."""

    pieces: Sequence[str]
    field: Literal["reasoning_content", "reasoning"] = "reasoning_content"


class Refusal(Paced, frozen=True):
    """The model declines."""

    pieces: Sequence[str]


class ToolCall(Paced, frozen=True):
    """A chunk with id and name, if either is given, then one per fragment of the arguments."""

    fragments: Sequence[str] = ()
    index: int = 0
    id: str = ""
    name: str = ""


class Finish(_Step, frozen=True):
    """The finish reason."""

    reason: str = "stop"


class Usage(_Step, frozen=True, kw_only=True):
    """The account. What is not given is counted from what was sent."""

    prompt_tokens: int | None = None
    cached_tokens: int = 0
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    if_asked: bool = False
    """Only if the request asked for it."""


class Done(_Step, frozen=True):
    """The dialect's end marker, `[DONE]`."""


class Error(_Step, frozen=True):
    """An error in the stream: as data, as an event named `error`, or inside a chunk that also has choices."""

    message: str = "The server had an error while processing your request."
    type: str = "server_error"
    code: str | int | None = None
    form: Literal["data", "event", "chunk"] = "data"


# --- What the server does --------------------------------------------------------------------------------------------


class Head(_Step, frozen=True, kw_only=True):
    """Status and headers, now. `framing` close: no chunks, the body ends with the connection."""

    status: int = 200
    headers: dict[str, str] = {}
    content_type: str | None = None
    """None: the dialect's own."""
    gzip: bool = False
    framing: Literal["chunked", "close"] = "chunked"
    split_bytes: int = 0
    """Cut everything into HTTP chunks of at most so many bytes; 0: a chunk per write."""


class Respond(_Step, frozen=True):
    """A whole answer with a length: an HTTP error, or anything that is no stream. `body` other than text is JSON."""

    status: int = 200
    body: Any = None
    """None: the dialect's error for this status."""
    headers: dict[str, str] = {}
    content_type: str | None = None


class Raw(_Step, frozen=True):
    """Bytes of the body as they are, in one HTTP chunk; given as text, or as base64."""

    text: str = ""
    base64: str = ""

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.text.encode("utf-8", "surrogatepass") + base64.b64decode(self.base64)


class Comment(Paced, frozen=True):
    """Keep-alives."""

    text: str = "keep-alive"
    count: int = 1


class Wait(_Step, frozen=True):
    """Time passes."""

    milliseconds: float


class Gate(_Step, frozen=True):
    """Parks until the test releases it."""

    name: str


class Stall(_Step, frozen=True):
    """Silence until the peer leaves."""


class End(_Step, frozen=True):
    """Ends the body properly. Nothing but `Cut`, `Reset` and what parks may follow."""


class Cut(_Step, frozen=True):
    """A FIN, wherever the answer stands; `inside_chunk`: in the middle of an HTTP chunk."""

    inside_chunk: bool = False


class Reset(_Step, frozen=True):
    """A RST, wherever the answer stands."""


ContentStep = Role | Text | Stamps | Reasoning | Refusal | ToolCall | Finish | Usage | Done | Error | Comment
"""Steps that a dialect encodes."""

Step = ContentStep | Head | Respond | Raw | Wait | Gate | Stall | End | Cut | Reset
Script = Sequence[Step]


def parse_script(data: object) -> list[Step]:
    """A script from its JSON value.

    Raises:
        ValueError: it is none; says where.
    """
    return msgspec.convert(data, list[Step])


def words(text: str) -> list[str]:
    """Cuts a text into pieces that join to it: each a word with the white space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def streamed(*steps: Step, finish: str = "stop") -> list[Step]:
    """What a provider makes of these steps: role first; then finish reason, usage if asked for, and the end marker."""
    return [Role(), *steps, Finish(finish), Usage(if_asked=True), Done()]
