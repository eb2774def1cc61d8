"""What the simulator needs to know of a dialect. A new one is a module that implements `Dialect`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from midstream_simulator.steps import ContentStep

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Frames:
    """The frames of a step: how many, and the bytes of each, made when it is sent."""

    count: int
    render: Callable[[int], bytes]


class Encoder(Protocol):
    """Encodes one answer, and counts what it encoded."""

    output_tokens: int
    pieces: list[str]
    """The text that was encoded, but for stamps."""

    def frames(self, step: ContentStep) -> Frames:
        """The frames of a step."""
        ...


class Dialect(Protocol):
    """A wire grammar, from the provider's side."""

    content_type: str

    def model(self, path: str, body: JsonObject) -> str | None:
        """The model that a POST to this path asks for. None: the path is not this dialect's."""
        ...

    def encoder(self, body: JsonObject, number: int) -> Encoder:
        """For one answer."""
        ...

    def error_body(self, status: int, message: str = "") -> JsonObject:
        """The JSON of an HTTP error."""
        ...

    def refuse(self, body: JsonObject) -> str | None:
        """Why this request is answered with 400. None: it is not."""
        ...

    def last_user_text(self, body: JsonObject) -> str:
        """For `echo`."""
        ...

    def max_tokens(self, body: JsonObject) -> int | None:
        """The request's limit of output tokens."""
        ...

    def tool_names(self, body: JsonObject) -> Sequence[str]:
        """The tools that the request offers."""
        ...
