"""A partial message plus a delta is a message: the fold that readers, the engine and recovery agree on."""

import json

from midstream_server.model import (
    Annotation,
    Blob,
    BlobDelta,
    DeltaPayload,
    FinishReason,
    Message,
    MessageDelta,
    Part,
    PartContent,
    PartState,
    ProviderState,
    Reasoning,
    ReasoningDelta,
    Refusal,
    RefusalDelta,
    Role,
    Text,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)


def is_json_object(arguments: str) -> bool:
    """Whether a tool call's arguments are whole: a JSON object, or nothing (which counts as `{}`)."""
    if not arguments:
        return True
    try:
        return isinstance(_JSON.decode(arguments), dict)
    except (ValueError, RecursionError):
        return False


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Numbers are not read: Python refuses integers of more than 4,300 digits, which are JSON all the same.
_JSON = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)


class _PartBuilder:
    """One part while it grows. Which kind it is, its first payload decides."""

    __slots__ = (
        "annotations",
        "data",
        "file_id",
        "id",
        "kind",
        "mime_type",
        "name",
        "pieces",
        "provider_state",
        "state",
        "url",
    )

    def __init__(self) -> None:
        self.kind: type[DeltaPayload] | None = None
        self.pieces: list[str] = []
        self.data = bytearray()
        self.id = self.name = self.mime_type = self.url = self.file_id = ""
        self.annotations: list[Annotation] = []
        self.provider_state: ProviderState | None = None
        self.state = PartState.OPEN

    def add(self, payload: DeltaPayload) -> None:
        self.kind = self.kind or type(payload)
        match payload:
            case TextDelta() | ReasoningDelta() | RefusalDelta():
                self.pieces.append(payload.text)
            case ToolCallDelta():
                self.id = payload.id or self.id
                self.name = payload.name or self.name
                self.pieces.append(payload.arguments)
            case BlobDelta():
                self.mime_type = payload.mime_type or self.mime_type
                self.url = payload.url or self.url
                self.file_id = payload.file_id or self.file_id
                self.data += payload.data

    def joined(self) -> str:
        if len(self.pieces) > 1:
            self.pieces = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    def content(self) -> PartContent:
        if self.kind is ToolCallDelta:
            return ToolCall(id=self.id, name=self.name, arguments=self.joined())
        if self.kind is BlobDelta:
            return Blob(mime_type=self.mime_type, data=bytes(self.data), url=self.url, file_id=self.file_id)
        if self.kind is RefusalDelta:
            return Refusal(text=self.joined())
        if self.kind is TextDelta:
            return Text(text=self.joined(), annotations=tuple(self.annotations))
        return Reasoning(text=self.joined())

    def closed_by(self, finish_reason: FinishReason | None) -> PartState:
        """The state that the end of the run leaves the part in; `finish_reason` None: the model did not finish."""
        if self.state is not PartState.OPEN:
            return self.state
        if finish_reason is None:
            return PartState.TRUNCATED
        cut = finish_reason in (FinishReason.LENGTH, FinishReason.CONTENT_FILTER)
        if self.kind is ToolCallDelta:
            arguments = self.joined()
            if is_json_object(arguments) and (arguments or not cut):
                return PartState.COMPLETE
            return PartState.TRUNCATED if cut else PartState.MALFORMED
        return PartState.TRUNCATED if cut else PartState.COMPLETE


class MessageAccumulator:
    """The message so far. Deltas come in the order of their sequences."""

    def __init__(self) -> None:
        self._parts: list[_PartBuilder] = []
        self.output_bytes = 0
        """UTF-8 bytes of all payloads."""

    def add(self, delta: MessageDelta) -> None:
        """Folds one delta in."""
        while len(self._parts) <= delta.part_index:
            self._parts.append(_PartBuilder())
        part, payload = self._parts[delta.part_index], delta.payload
        if payload is not None:
            part.add(payload)
            self.output_bytes += payload_size(payload)
        if delta.part_end is not None:
            part.state = delta.part_end
        if delta.provider_state is not None:
            part.provider_state = delta.provider_state
        if delta.annotations:
            part.annotations.extend(delta.annotations)

    def message(self) -> Message | None:
        """The message so far; None while there is nothing."""
        return self._message([part.state for part in self._parts])

    def final_message(self, finish_reason: FinishReason | None) -> Message | None:
        """The message with the states that the end of the run gives to the parts still open."""
        return self._message([part.closed_by(finish_reason) for part in self._parts])

    def _message(self, states: list[PartState]) -> Message | None:
        if not self._parts:
            return None
        parts = tuple(
            Part(content=part.content(), state=state, provider_state=part.provider_state)
            for part, state in zip(self._parts, states, strict=True)
        )
        return Message(role=Role.ASSISTANT, parts=parts)


def utf8_size(text: str) -> int:
    """The number of UTF-8 bytes of a text; half a surrogate pair counts 3."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def payload_size(payload: DeltaPayload) -> int:
    """The number of bytes by which a payload moves its part's offset."""
    if type(payload) is TextDelta:  # The hot path: a token.
        text = payload.text
        return len(text) if text.isascii() else utf8_size(text)
    if isinstance(payload, ToolCallDelta):
        return utf8_size(payload.arguments)
    if isinstance(payload, BlobDelta):
        return len(payload.data)
    return utf8_size(payload.text)
