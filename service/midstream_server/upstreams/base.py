"""The port to upstreams: one attempt at a generation, as events, however it is spoken on the wire.

A *dialect* is a wire grammar (a sans-I/O parser and a request mapping), an *upstream* a configured endpoint, a
*profile* data about it. The engine sees only `Upstream` and `UpstreamCall`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from midstream_server.errors import RunFailure
from midstream_server.model import (
    Annotation,
    DeltaPayload,
    FinishReason,
    ModelInfo,
    PartState,
    Prompt,
    ProviderState,
    TokenLogprob,
    Usage,
    token_value,
)

# --- What a dialect's parser says ------------------------------------------------------------------------------------


@token_value
class PartDelta:
    """More of a part.

    `part` is the dialect's own key of the part, unique in the stream; the first delta with a new key opens the part, in
    order of appearance. A key never changes its kind. `payload` None: the delta only closes the part or adds to it.
    `part_end` COMPLETE: the provider closed the part (a tool call that is not a JSON object then becomes MALFORMED).
    """

    part: str
    payload: DeltaPayload | None = None
    part_end: PartState | None = None
    provider_state: ProviderState | None = None
    annotations: tuple[Annotation, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseStarted:
    """What the upstream says of itself; may come more than once, empty fields are unknown."""

    upstream_request_id: str = ""
    upstream_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFinished:
    """The finish marker: the model stopped by itself.

    `reason` None: the provider gave its answer an ending of its own name (`raw`), but the model did not finish; an
    `UpstreamFailed` follows in the same list.
    """

    reason: FinishReason | None
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported:
    """The account so far; replaces the one before. Each count says whether it is final or running."""

    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFailed:
    """An error frame. Nothing after it counts."""

    failure: RunFailure


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataReported:
    """Facts beside the message, by the provider's names; added to those before."""

    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventIgnored:
    """An event, or a further choice, that is not part of the message."""

    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedOver:
    """The attempt that spoke so far has failed before any output; what it told does not count, another one follows.

    Comes from a call, never from a parser, and never after a `PartDelta` or a `ModelFinished`.
    """


UpstreamEvent = (
    PartDelta
    | ResponseStarted
    | ModelFinished
    | UsageReported
    | UpstreamFailed
    | MetadataReported
    | EventIgnored
    | StartedOver
)


class StreamParser(Protocol):
    """Bytes in, events out, however the bytes are cut. Pure: no clock, no I/O.

    `feed` and `close` raise nothing for bad input: they return `UpstreamFailed(UpstreamMalformed)`. After an
    `UpstreamFailed` further calls return nothing.
    """

    def feed(self, data: bytes) -> list[UpstreamEvent]:
        """The events that these bytes complete."""
        ...

    def close(self) -> list[UpstreamEvent]:
        """The end of the body: what an unterminated last event held, and what only the end tells."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one endpoint does differently from others of its dialect. Data only; a dialect reads what concerns it."""

    finish_reason_required: bool = True
    """False: this provider sends none, and a clean end with output is FinishReason.OTHER."""
    running_usage: str = "none"
    """How usage is told while the stream goes on: `none`, `continuous_usage_stats` (vLLM), `timings` (llama.cpp)."""
    usage_option: bool = True
    """Whether to ask for usage with `stream_options.include_usage`."""
    continue_prefix: str = "none"
    """How a partial is continued: `none`, `assistant_prefill`, `continue_final_message`, `prefix_flag`."""
    remote_cancel: str = ""
    """The path of the call that stops an answer which goes on without its reader, with `{id}` for the answer's id:
    `/responses/{id}/cancel` (OpenAI in background mode). Empty: a hang-up is enough."""
    on_cancel: str = "abort"
    """What a stopped run does with its answer: `abort` hangs up; `drain` reads the rest to learn what it costs, for a
    provider that bills the whole answer whether it is read or not."""
    drain_seconds: float = 60.0
    """A drain is hung up on after this time,"""
    drain_output_tokens: int = 10_000
    """or after this many tokens of output behind the stop: as the upstream counts them, else ⌈UTF-8 bytes / 4⌉."""
    blocked_prompt_codes: tuple[str, ...] = ("content_filter",)
    """The codes by which an HTTP 400 says that the provider's filter blocked the prompt: an answer, not a failure.
    Azure's: https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter"""
    connection_close: bool = False
    """Send `Connection: close`: the server closes pooled connections without saying so."""
    max_tokens_field: str = "max_completion_tokens"
    """The name of the output limit in Chat Completions: some relatives only know `max_tokens`."""
    developer_role: str = "developer"
    """The role of a developer's instructions in Chat Completions: most relatives only know `system`."""
    reasoning_history: str = "reasoning_details"
    """How Chat Completions history brings back what the model thought: `reasoning_details`, as they came if they are
    signed; another name, such as `reasoning_content` (DeepSeek): the text, in this field, with every tool call; empty:
    not at all, because the endpoint refuses fields that it does not know."""
    extra_body: Mapping[str, object] = field(default_factory=dict)
    """Fields that this endpoint needs in every request."""
    parameter_fields: Mapping[str, str] = field(default_factory=dict)
    """Where a generation parameter goes if not where its dialect puts it: `{"seed": "random_seed"}`. Also lets one
    through that the dialect itself lacks (`{"top_k": "top_k"}`); an empty name refuses one that this endpoint lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request as a dialect maps it; `path` is appended to the upstream's base URL."""

    path: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListing:
    """How an endpoint lists its models, as JSON. The defaults are OpenAI's: `{"data": [{"id": …}]}`, or a bare list."""

    request: HttpRequest = HttpRequest(path="/models", body=b"")
    list_field: str = "data"
    name_field: str = "id"
    name_prefix: str = ""
    """What stands before every name and is no part of it."""
    only_with: tuple[str, str] | None = None
    """Only models that have this word in the list under this field."""


class Dialect(Protocol):
    """A wire grammar. Stateless; one instance serves all upstreams that speak it."""

    name: str
    model_listing: ModelListing

    def build_request(self, model: str, prompt: Prompt, profile: Profile) -> HttpRequest:
        """The HTTP request for a prompt.

        Raises:
            InvalidRequest: the dialect cannot express a field; names it by its path in GenerateRequest.
        """
        ...

    def authorization(self, api_key: str) -> Mapping[str, str]:
        """The headers that carry the key."""
        ...

    def parser(self, profile: Profile) -> StreamParser:
        """A fresh parser for one response body with status 200."""
        ...

    def content_types(self) -> frozenset[str]:
        """The media types of a stream in this dialect, lower case, without parameters."""
        ...

    def map_error(self, status: int, body: bytes) -> RunFailure:
        """The failure that an HTTP error status and its body (possibly cut, possibly not JSON) mean."""
        ...


# --- What the engine uses --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The clocks of one call, in seconds. None: the upstream's own setting; the smaller of the two counts."""

    first_token_seconds: float | None = None
    idle_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainCaps:
    """How much of an answer that nobody wants any more is read for its account."""

    seconds: float
    output_tokens: int


@token_value
class UpstreamBatch:
    """What one read of the socket gave: the events that it completed, and its bytes on the wire."""

    events: Sequence[UpstreamEvent]
    wire_bytes: int


class UpstreamCall(Protocol):
    """A generation at an upstream. Nothing is sent before the first batch is asked for; iterate it once, in one task.

    Iteration ends when the response body ends, or after `abort`. It raises a `RunFailure` for everything else:
    connection, status, clocks, wire. Cancelling the iterating task closes the connection as well; always leave the call
    with `async with`, which guarantees that nothing of it stays open.
    """

    async def __aenter__(self) -> "UpstreamCall":
        """Opens nothing."""
        ...

    async def __aexit__(self, *exc_info: object) -> None:
        """Closes the connection, if it is open."""
        ...

    def batches(self) -> AsyncIterator[UpstreamBatch]:
        """The answer, a batch per read. The time between two `anext` calls, in which nobody reads, is not idle time."""
        ...

    def abort(self) -> None:
        """Closes the connection in this turn of the loop, in every position (before headers too). Idempotent.

        The iteration then ends by itself: what had been received already may still be given, errors of the closed
        connection are not raised.
        """
        ...

    def drain(self) -> DrainCaps | None:
        """Nobody wants the answer, but a hang-up would not stop its bill: the attempt under way may go on.

        No further attempt is made; the iteration goes on as before, and `abort` ends it at any time. None: hanging up
        stops the bill, or there is none yet; nothing has changed, and the caller aborts.
        """
        ...

    @property
    def attempts(self) -> int:
        """How often the upstream was called: 0 before the first request left, more with retries."""
        ...

    @property
    def upstream(self) -> str:
        """The name of the upstream of the current attempt."""
        ...


class Upstream(Protocol):
    """A configured endpoint."""

    name: str

    def call(self, model: str, prompt: Prompt, options: CallOptions) -> UpstreamCall:
        """Prepares a call; sends nothing.

        Raises:
            InvalidRequest: the dialect cannot express the prompt; names the field.
        """
        ...

    @property
    def supports_continue(self) -> bool:
        """Whether `Prompt.prefix` works here."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """The models that it knows by name.

        Raises:
            RunFailure: it cannot be asked.
        """
        ...


class UpstreamRegistry(Protocol):
    """All upstreams and aliases by the names that callers use."""

    def resolve(self, model: str) -> tuple[Upstream, str]:
        """The upstream of `<upstream>/<name>`, and the name.

        Raises:
            ModelNotFound: there is none.
        """
        ...

    async def models(self) -> tuple[Sequence[ModelInfo], Sequence[str]]:
        """All models that are known by name, and the upstreams that did not answer."""
        ...
