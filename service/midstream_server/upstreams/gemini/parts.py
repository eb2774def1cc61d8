"""The content of candidate 0 as parts: https://ai.google.dev/api/caching#Part.

Text, thoughts and files are keyed by their order, as text after anything else is a new part; so are function calls,
which come whole, or leaf by leaf until one says that it does not go on. A thought signature goes with the part that
carried it, which it closes: https://ai.google.dev/gemini-api/docs/thought-signatures.
"""

import base64
import binascii
from dataclasses import dataclass, field

from midstream_server.model import (
    Annotation,
    BlobDelta,
    JsonValue,
    PartState,
    ProviderState,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
)
from midstream_server.upstreams.answer import PartSequence
from midstream_server.upstreams.base import EventIgnored, PartDelta, UpstreamEvent
from midstream_server.upstreams.gemini.arguments import PartialArguments
from midstream_server.upstreams.mapping import made_call_id
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text, cut_words, encode_json

SIGNATURE = "thoughtSignature"
_TEXT, _REASONING, _OTHER = "text", "reasoning", "part"
_COMPLETE = PartState.COMPLETE
_SERVER_TOOLS = ("executableCode", "codeExecutionResult", "toolCall", "toolResponse", "functionResponse")
"""What Gemini's own tools do: no part of the message, and neither are their signatures."""


@dataclass(slots=True)
class _StreamedCall:
    """A function call whose arguments go on."""

    part: str
    arguments: PartialArguments = field(default_factory=PartialArguments)


class PartReader:
    """Reads the parts of one candidate and keeps which of ours are open."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect
        self._parts = PartSequence()
        """A call that goes on is not the open one."""
        self._text_part = ""
        """The last one that was text."""
        self._texts = 0
        self._calls = 0
        self._call: _StreamedCall | None = None
        self._identity: object = ""

    @property
    def has_calls(self) -> bool:
        """Whether the model called a function."""
        return self._calls > 0

    @property
    def is_one_text(self) -> bool:
        """Whether all text is in one part, so that offsets in the one are offsets in the other."""
        return self._texts == 1

    def identify(self, identity: object) -> None:
        """What tells this answer from others: ids are made from it for calls that come without."""
        self._identity = self._identity or identity

    def read(self, part: dict[str, JsonValue], events: list[UpstreamEvent]) -> None:
        """One part of a chunk, which goes on with ours or opens another."""
        text, signature = part.get("text"), as_text(part.get(SIGNATURE))
        call, blob = part.get("functionCall"), part.get("inlineData") or part.get("fileData")
        if isinstance(call, dict):
            self._read_call(call, signature, events)
        elif isinstance(blob, dict) and part.get("thought") is not True:
            self._read_blob(blob, signature, events)
        elif isinstance(text, str) and text:
            self._add_signed_text(text, part.get("thought") is True, signature, events)
        elif signature and not any(name in part for name in _SERVER_TOOLS):
            self._sign(signature, events)
        elif not isinstance(text, str):
            kind = next((name for name in part if name not in ("thought", SIGNATURE)), "")
            events.append(EventIgnored(kind=f"part {cut_words(kind, 64)}"))

    def add_text(self, text: str, events: list[UpstreamEvent], *, is_thought: bool) -> None:
        """More text, or more of a thought, and nothing else."""
        if is_thought:
            self._parts.add(_REASONING, ReasoningDelta(text), events)
            return
        if self._parts.kind is not _TEXT:
            self._texts += 1
        self._parts.add(_TEXT, TextDelta(text), events)
        self._text_part = self._parts.key

    def annotate(
        self, annotations: tuple[Annotation, ...], logprobs: tuple[TokenLogprob, ...], events: list[UpstreamEvent]
    ) -> bool:
        """Adds to the last text what belongs to it; False if there is none."""
        if (annotations or logprobs) and self._text_part:
            events.append(PartDelta(part=self._text_part, annotations=annotations, logprobs=logprobs))
        return bool(self._text_part)

    def finish(self, events: list[UpstreamEvent]) -> None:
        """The model is done: a call that did not say so has its arguments all the same."""
        if self._call is not None:
            self._end_call(self._call, "", None, events)

    # --- Text, thoughts, files -----------------------------------------------------------------------------------

    def _add_signed_text(self, text: str, is_thought: bool, signature: str, events: list[UpstreamEvent]) -> None:
        self.add_text(text, events, is_thought=is_thought)
        if signature:
            self._sign(signature, events)

    def _sign(self, signature: str, events: list[UpstreamEvent]) -> None:
        """A signature without content closes the part before it; after a call it has a part of its own."""
        payload = None
        if not self._parts.kind:
            self._parts.open(_REASONING, events)
            payload = ReasoningDelta("")
        self._parts.kind = ""
        state = self._state(signature)
        events.append(PartDelta(part=self._parts.key, payload=payload, part_end=_COMPLETE, provider_state=state))

    def _read_blob(self, blob: dict[str, JsonValue], signature: str, events: list[UpstreamEvent]) -> None:
        """https://ai.google.dev/gemini-api/docs/image-generation."""
        try:
            data = base64.b64decode(as_text(blob.get("data")).translate(_URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            data = b""
        url = as_text(blob.get("fileUri"))
        if not (data or url):
            events.append(EventIgnored(kind="part without its file"))
            return
        payload = BlobDelta(mime_type=as_text(blob.get("mimeType")), data=data, url=url)
        self._parts.add_whole(_OTHER, payload, events, self._state(signature))

    def _state(self, signature: str) -> ProviderState | None:
        if not signature:
            return None
        return ProviderState(dialect=self._dialect, data=encode_json({SIGNATURE: signature}).encode("utf-8", "replace"))

    # --- Function calls ----------------------------------------------------------------------------------------------

    def _read_call(self, call: dict[str, JsonValue], signature: str, events: list[UpstreamEvent]) -> None:
        """A call, or more of the one that goes on: only the beginning has a name."""
        name, goes_on = as_text(call.get("name")), call.get("willContinue") is True
        state = self._state(signature)
        if name:
            self.finish(events)
            if not goes_on and not call.get("partialArgs"):
                payload = ToolCallDelta(id=self._call_id(call), name=name, arguments=_arguments(call))
                self._parts.add_whole(_OTHER, payload, events, state)
                return
            head = ToolCallDelta(id=self._call_id(call), name=name)
            self._parts.open(_OTHER, events)
            self._parts.kind = ""
            self._call = _StreamedCall(self._parts.key)
            events.append(PartDelta(part=self._parts.key, payload=head, provider_state=state))
            state = None
        streamed = self._call
        if streamed is None:
            events.append(EventIgnored(kind="functionCall without a name"))
            return
        text = "".join(streamed.arguments.add(as_object(each)) for each in as_list(call.get("partialArgs")))
        if not goes_on:
            self._end_call(streamed, text, state, events)
        elif text or state:
            payload = ToolCallDelta(arguments=text)
            events.append(PartDelta(part=streamed.part, payload=payload, provider_state=state))

    def _end_call(
        self, call: _StreamedCall, text: str, state: ProviderState | None, events: list[UpstreamEvent]
    ) -> None:
        self._call = None
        payload = ToolCallDelta(arguments=text + call.arguments.close())
        events.append(PartDelta(part=call.part, payload=payload, part_end=_COMPLETE, provider_state=state))

    def _call_id(self, call: dict[str, JsonValue]) -> str:
        self._calls += 1
        identity = self._identity if isinstance(self._identity, str) else encode_json(self._identity)
        return as_text(call.get("id")) or made_call_id(identity, self._calls)


_URL_SAFE = str.maketrans("-_", "+/")


def _arguments(call: dict[str, JsonValue]) -> str:
    """The arguments as compact JSON; a call without any has none to give."""
    arguments = call.get("args")
    return encode_json(arguments) if isinstance(arguments, dict) else "{}"
