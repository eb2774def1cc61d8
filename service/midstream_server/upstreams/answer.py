"""How a body becomes an answer: what the parsers of all dialects share.

`AnswerParser` reads the frames of one body, decodes them, and gives the verdict at its end. What a frame means is said
by the `AnswerRules` of the dialect, into an `Answer`: the events so far, and how far the answer is.
"""

from collections.abc import Mapping
from typing import Protocol

from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamTruncated
from midstream_server.model import (
    DeltaPayload,
    FinishReason,
    JsonValue,
    PartState,
    ProviderState,
    TokenCount,
    Usage,
    UsageSource,
)
from midstream_server.upstreams.base import (
    EventIgnored,
    MetadataReported,
    ModelFinished,
    PartDelta,
    Profile,
    ResponseStarted,
    UpstreamEvent,
    UpstreamFailed,
    UsageReported,
)
from midstream_server.upstreams.wire.frame import Frame
from midstream_server.upstreams.wire.json_text import as_object, as_text, cut_words, decode_json

_MAX_FACT_BYTES = 256
_MAX_KIND_BYTES = 64
_MAX_CHANGES = 16
"""How often a stream may tell a new name or fact: a hostile one tells them without end."""
_UNKNOWN = Usage()
_BEFORE_BODY = b"\xef\xbb\xbf \t\r\n"


class Answer:
    """What a body said so far. Events are taken out as they are handed on; the rest is state."""

    __slots__ = ("_changes", "_has_output", "_known", "_usage", "events", "has_failed", "is_done", "is_finished")

    def __init__(self) -> None:
        self.events: list[UpstreamEvent] = []
        self.is_finished = False
        """The finish marker has come."""
        self.is_done = False
        """The provider said that nothing follows: only an error counts any more."""
        self.has_failed = False
        self._known: dict[str, str] = {}
        self._changes = 0
        self._has_output = False
        self._usage: Usage | None = None

    @property
    def has_output(self) -> bool:
        """Whether there was any part."""
        return self._has_output or any(isinstance(event, PartDelta) for event in self.events)

    def take(self) -> list[UpstreamEvent]:
        """The events that were not handed on yet."""
        if not self._has_output:
            self._has_output = self.has_output
        events, self.events = self.events, []
        return events

    def finish(self, reason: FinishReason | None, raw: str) -> None:
        """The finish marker, with the provider's own word."""
        self.is_finished = True
        self.events.append(ModelFinished(reason=reason, raw=cut_words(raw, _MAX_FACT_BYTES)))

    def fail(self, failure: RunFailure) -> None:
        """The end of everything."""
        self.has_failed = True
        self.events.append(UpstreamFailed(failure=failure))

    def ignore(self, kind: str) -> None:
        """Something that is no part of the message."""
        self.events.append(EventIgnored(kind=cut_words(kind, _MAX_KIND_BYTES) or "event"))

    def report(self, usage: Usage | None) -> None:
        """The account so far, if it is another than before."""
        if usage is not None and usage not in (self._usage, _UNKNOWN):
            self._usage = usage
            self.events.append(UsageReported(usage=usage))

    def identify(self, response_id: JsonValue, model: JsonValue) -> None:
        """What the upstream says of itself: the first id, the model whenever it changes."""
        new_id = "" if "id" in self._known else self._changed("id", response_id)
        new_model = self._changed("model", model)
        if new_id or new_model:
            self.events.append(ResponseStarted(upstream_request_id=new_id, upstream_model=new_model))

    def tell(self, facts: Mapping[str, JsonValue]) -> None:
        """Facts beside the message, when they are new; what is no text is none."""
        fresh = {name: text for name, fact in facts.items() if (text := self._changed(f"fact {name}", fact))}
        if fresh:
            self.events.append(MetadataReported(metadata=fresh))

    def _changed(self, name: str, value: JsonValue) -> str:
        text = cut_words(as_text(value), _MAX_FACT_BYTES)
        if not text or self._known.get(name) == text or self._changes >= _MAX_CHANGES:
            return ""
        self._changes += name in self._known
        self._known[name] = text
        return text


def account(
    source: UsageSource,
    other: Mapping[str, int] | None = None,
    *,
    input: int | None = None,
    cached_input: int | None = None,
    cache_write_input: int | None = None,
    output: int | None = None,
    reasoning: int | None = None,
) -> Usage:
    """An account of these counts; None is unknown, and stays so."""
    return Usage(
        input=_count(input, source),
        cached_input=_count(cached_input, source),
        cache_write_input=_count(cache_write_input, source),
        output=_count(output, source),
        reasoning=_count(reasoning, source),
        other={name: TokenCount(value=value, source=source) for name, value in other.items()} if other else {},
    )


def _count(value: int | None, source: UsageSource) -> TokenCount | None:
    return None if value is None else TokenCount(value=value, source=source)


class PartSequence:
    """Parts that come one after the other: another kind closes what spoke before."""

    __slots__ = ("count", "key", "kind")

    def __init__(self) -> None:
        self.kind = ""
        """Of the part that is open; empty if none is."""
        self.key = ""
        """Of the part that was opened last."""
        self.count = 0

    def open(self, kind: str, events: list[UpstreamEvent]) -> None:
        """Begins a part; its first delta opens it."""
        self.close(events)
        self.kind = kind
        self.key = f"{kind}:{self.count}"
        self.count += 1

    def add(self, kind: str, payload: DeltaPayload, events: list[UpstreamEvent]) -> None:
        """More of the part that is open, if it is of this kind; else another begins."""
        if self.kind is not kind:
            self.open(kind, events)
        events.append(PartDelta(part=self.key, payload=payload))

    def add_whole(
        self, kind: str, payload: DeltaPayload, events: list[UpstreamEvent], state: ProviderState | None = None
    ) -> None:
        """A part that comes at once."""
        self.open(kind, events)
        self.kind = ""
        events.append(PartDelta(part=self.key, payload=payload, part_end=PartState.COMPLETE, provider_state=state))

    def close(self, events: list[UpstreamEvent]) -> None:
        """Ends the part that is open."""
        if self.kind:
            events.append(PartDelta(part=self.key, part_end=PartState.COMPLETE))
            self.kind = ""


class Framing(Protocol):
    """Splits a body into frames, however its bytes are cut. Nothing comes after a `failure`."""

    @property
    def failure(self) -> RunFailure | None:
        """Why the body cannot be read any further."""
        ...

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete."""
        ...

    def close(self) -> list[Frame]:
        """A frame that the end of the body cut, whole or not."""
        ...


class AnswerRules(Protocol):
    """What the frames of one dialect mean. One object reads one body."""

    def read_plain(self, frame: Frame, answer: Answer) -> bool:
        """The fast path, before the finish: reads a frame that brings more of a part and nothing else.

        False: it is no such frame, and nothing was read of it.
        """
        ...

    def read(self, kind: str, value: dict[str, JsonValue], answer: Answer) -> bool:
        """Reads a frame, but not its error. False: it is unknown (DESIGN §5, rule 13), and nothing was read of it.

        `kind` is its type, or the name of its event; both are empty in dialects that have neither.
        """
        ...

    def find_error(self, value: JsonValue) -> JsonValue:
        """The error in a frame, or None."""
        ...

    def failure_of(self, error: JsonValue, answer: Answer) -> RunFailure:
        """The failure that an error means: an object, or words."""
        ...

    def settle(self, answer: Answer) -> None:
        """Nothing more comes: says what was held back; after the finish marker the account is the closing one.

        May be called more than once.
        """
        ...


class AnswerParser:
    """A `StreamParser` for one body."""

    def __init__(self, framing: Framing, rules: AnswerRules, profile: Profile, end_kind: str = "") -> None:
        """`end_kind` names the frame that ends an answer as `[DONE]` does."""
        self._framing = framing
        self._rules = rules
        self._finish_is_required = profile.finish_reason_required
        self._end_kind = end_kind
        self._answer = Answer()
        self._has_started = False

    def feed(self, data: bytes) -> list[UpstreamEvent]:
        """The events that these bytes complete."""
        answer = self._answer
        if answer.has_failed or not (self._has_started or self._looks_like_frames(data)):
            return answer.take()
        read_plain = self._rules.read_plain
        for frame in self._framing.feed(data):
            if answer.is_finished or frame.error or frame.bare or not read_plain(frame, answer):
                self._read(frame)
                if answer.has_failed:
                    return answer.take()
        if self._framing.failure is not None:
            self._fail(self._framing.failure)
        return answer.take()

    def close(self) -> list[UpstreamEvent]:
        """The end of the body: a frame that it cut counts only if its data is whole (DESIGN §5, rule 1)."""
        answer = self._answer
        for frame in [] if answer.has_failed else self._framing.close():
            if not answer.has_failed and (not frame.unterminated or _is_whole(frame)):
                self._read(frame)
        if not (answer.has_failed or answer.is_done):
            self._end()
        return answer.take()

    def _looks_like_frames(self, data: bytes) -> bool:
        start = data.lstrip(_BEFORE_BODY)[:1]
        self._has_started = bool(start)
        if start == b"<":
            self._fail(UpstreamMalformed("the upstream answered with markup where a stream should be"))
        return not self._answer.has_failed

    # --- Frames -----------------------------------------------------------------------------------------------------

    def _read(self, frame: Frame) -> None:
        if frame.error or frame.name == b"error":
            value = _json_or_words(frame.error or frame.data)
            self._read_value(frame, value, self._rules.find_error(value) or value)
        elif frame.data.strip() == b"[DONE]":
            self._end()
        elif frame.data.strip():
            self._read_json(frame)

    def _read_json(self, frame: Frame) -> None:
        try:
            value = decode_json(frame.data)
        except ValueError:
            self._fail(UpstreamMalformed("an event of the upstream is not JSON"))
            return
        error = self._rules.find_error(value)
        if frame.bare and not error:
            fields = as_object(value)
            if not (fields.get("detail") or fields.get("message")):
                self._fail(UpstreamMalformed("the upstream sent JSON outside its events"))
                return
            error = value
        self._read_value(frame, value, error)

    def _read_value(self, frame: Frame, value: JsonValue, error: JsonValue) -> None:
        """What a frame says counts also where it brings an error (DESIGN §5, rules 7 and 8)."""
        answer, is_known = self._answer, False
        fields = as_object(value)
        kind = as_text(fields.get("type")) or frame.name.decode("utf-8", "replace")
        if isinstance(value, dict) and not (answer.is_done or frame.bare):
            is_known = self._rules.read(kind, fields, answer)
        if error:
            if not answer.has_failed:
                self._fail(self._rules.failure_of(error, answer))
        elif self._end_kind and kind == self._end_kind:
            self._end()
        elif not is_known:
            named = kind or as_text(fields.get("object")) or next(iter(fields), "event")
            answer.ignore(named if isinstance(value, dict) else f"json {type(value).__name__}")

    # --- Endings ----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """The end, by the provider's word or by that of the body: no finish without a finish marker (rule 10)."""
        answer = self._answer
        if answer.is_done:
            return
        answer.is_done = True
        self._rules.settle(answer)
        if not answer.is_finished:
            if self._finish_is_required or not answer.has_output:
                answer.fail(UpstreamTruncated())
                return
            answer.finish(FinishReason.OTHER, "")
            self._rules.settle(answer)

    def _fail(self, failure: RunFailure) -> None:
        if not self._answer.is_done:
            self._rules.settle(self._answer)
        self._answer.fail(failure)


def _is_whole(frame: Frame) -> bool:
    if frame.error or frame.data.strip() == b"[DONE]":
        return True
    try:
        decode_json(frame.data)
    except ValueError:
        return False
    return True


def _json_or_words(data: bytes) -> JsonValue:
    try:
        return decode_json(data)
    except ValueError:
        return data.decode("utf-8", "replace")
