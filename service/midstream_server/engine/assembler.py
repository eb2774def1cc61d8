"""From a dialect's part deltas to numbered parts with offsets, whole code points and bounded payloads."""

import dataclasses

from midstream_server.accumulator import is_json_object, payload_size
from midstream_server.model import (
    BlobDelta,
    DeltaPayload,
    MessageDelta,
    PartState,
    ReasoningDelta,
    RefusalDelta,
    TextDelta,
    ToolCallDelta,
)
from midstream_server.upstreams.base import PartDelta

MAX_PAYLOAD_BYTES = 64 * 1024
_MAX_CHUNK_CHARACTERS = MAX_PAYLOAD_BYTES // 4
"""No code point takes more than 4 bytes."""


class _OpenPart:
    """What must be known of a part to go on with it."""

    __slots__ = ("arguments", "held", "index", "kind", "offset")

    def __init__(self, index: int) -> None:
        self.index = index
        self.kind: type[DeltaPayload] | None = None
        self.offset = 0
        self.held = ""
        """Half a surrogate pair that waits for its other half."""
        self.arguments: list[str] = []


class MessageAssembler:
    """Numbers parts in order of appearance, and deltas by offset. Pure."""

    def __init__(self) -> None:
        self._parts: dict[str, _OpenPart] = {}
        self.output_bytes = 0
        """Bytes of all payloads that were given out."""

    def add(self, delta: PartDelta) -> list[MessageDelta]:
        """The deltas that this one becomes: none if all of it is held back, several if it is large."""
        part = self._parts.get(delta.part)
        if part is not None and not part.held and self._is_token(delta):
            return [self._numbered(part, delta.payload)]
        opens = part is None
        if part is None:
            part = self._parts[delta.part] = _OpenPart(len(self._parts))
        payloads = self._payloads(part, delta)
        if not payloads:
            if self._is_empty(delta) and not opens:
                return []
            # What opens a part is given out, empty or not: its index is taken, and its kind must be known.
            payloads = [_empty(part.kind) if opens else None]
        deltas = [self._numbered(part, payload) for payload in payloads]
        self._decorate(deltas, part, delta)
        return deltas

    @property
    def part_count(self) -> int:
        """How many parts there are."""
        return len(self._parts)

    def flush(self) -> list[MessageDelta]:
        """What was held back for a fragment that never came: each lone half becomes U+FFFD."""
        return [
            self._numbered(part, _with_text(part.kind, "\ufffd"))
            for part in self._parts.values()
            if self._release(part) and part.kind is not None
        ]

    @staticmethod
    def _release(part: _OpenPart) -> bool:
        held, part.held = part.held, ""
        return bool(held)

    @classmethod
    def _is_token(cls, delta: PartDelta) -> bool:
        """The hot path: text, and nothing to split, to replace, to hold back or to add."""
        if type(delta.payload) is not TextDelta:
            return False
        text = delta.payload.text
        return 0 < len(text) <= _MAX_CHUNK_CHARACTERS and text.isascii() and cls._is_empty(delta)

    @staticmethod
    def _is_empty(delta: PartDelta) -> bool:
        return delta.part_end is None and delta.provider_state is None and not delta.annotations and not delta.logprobs

    def _payloads(self, part: _OpenPart, delta: PartDelta) -> list[DeltaPayload | None]:
        payload = delta.payload
        closes = delta.part_end is not None
        if payload is None and closes and part.held:
            payload = _empty(part.kind)
        if payload is None:
            return []
        part.kind = part.kind or type(payload)
        if isinstance(payload, BlobDelta):
            return list(_split_blob(payload))
        if isinstance(payload, ToolCallDelta):
            return self._call_payloads(part, payload, closes)
        text = self._whole(part, payload.text, closes)
        if text is payload.text and len(text) <= _MAX_CHUNK_CHARACTERS:
            return [payload] if text else []
        return [_with_text(part.kind, each) for each in _split_text(text)]

    def _call_payloads(self, part: _OpenPart, payload: ToolCallDelta, closes: bool) -> list[DeltaPayload | None]:
        text = self._whole(part, payload.arguments, closes)
        part.arguments.append(text)
        if not (payload.id or payload.name or text):
            return []
        first, *rest = _split_text(text) or [""]
        head = dataclasses.replace(payload, arguments=first)
        return [head, *(ToolCallDelta(arguments=each) for each in rest)]

    @staticmethod
    def _whole(part: _OpenPart, text: str, closes: bool) -> str:
        if part.held or not text.isascii():
            text, part.held = _whole_code_points(part.held + text, closes)
        return text

    def _numbered(self, part: _OpenPart, payload: DeltaPayload | None) -> MessageDelta:
        numbered = MessageDelta(part_index=part.index, offset=part.offset, payload=payload)
        if payload is not None:
            size = payload_size(payload)
            part.offset += size
            self.output_bytes += size
        return numbered

    @staticmethod
    def _decorate(deltas: list[MessageDelta], part: _OpenPart, delta: PartDelta) -> None:
        if delta.logprobs:
            deltas[0] = dataclasses.replace(deltas[0], logprobs=delta.logprobs)
        if delta.part_end is not None or delta.provider_state is not None or delta.annotations:
            state = delta.part_end
            if (
                state is PartState.COMPLETE
                and part.kind is ToolCallDelta
                and not is_json_object("".join(part.arguments))
            ):
                state = PartState.MALFORMED
            deltas[-1] = dataclasses.replace(
                deltas[-1], part_end=state, provider_state=delta.provider_state, annotations=delta.annotations
            )


def _empty(kind: type[DeltaPayload] | None) -> DeltaPayload | None:
    if kind is None:
        return None
    return BlobDelta() if kind is BlobDelta else _with_text(kind, "")


def _with_text(kind: type[DeltaPayload] | None, text: str) -> DeltaPayload:
    if kind is ReasoningDelta:
        return ReasoningDelta(text)
    if kind is RefusalDelta:
        return RefusalDelta(text)
    if kind is ToolCallDelta:
        return ToolCallDelta(arguments=text)
    return TextDelta(text)


def _whole_code_points(text: str, closes: bool) -> tuple[str, str]:
    """A text whose surrogates are joined or replaced, and a high half at its end that may find its low half."""
    held = ""
    if not closes and text and "\ud800" <= text[-1] <= "\udbff":
        text, held = text[:-1], text[-1]
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), held


def _split_text(text: str) -> list[str]:
    return [text[start : start + _MAX_CHUNK_CHARACTERS] for start in range(0, len(text), _MAX_CHUNK_CHARACTERS)]


def _split_blob(payload: BlobDelta) -> list[BlobDelta]:
    if len(payload.data) <= MAX_PAYLOAD_BYTES:
        return [payload]
    pieces = [
        payload.data[start : start + MAX_PAYLOAD_BYTES] for start in range(0, len(payload.data), MAX_PAYLOAD_BYTES)
    ]
    return [dataclasses.replace(payload, data=pieces[0]), *(BlobDelta(data=piece) for piece in pieces[1:])]


def join_adjacent(deltas: list[MessageDelta]) -> list[MessageDelta]:
    """Joins neighbours of one part, up to the payload bound: what waited for the store becomes fewer entries."""
    if len(deltas) < 2:
        return deltas
    joined: list[MessageDelta] = []
    group: list[MessageDelta] = []
    size = 0
    for delta in deltas:
        delta_size = 0 if delta.payload is None else payload_size(delta.payload)
        if group and not (_joins(group[-1], delta) and size + delta_size <= MAX_PAYLOAD_BYTES):
            joined.append(_joined(group))
            group, size = [], 0
        group.append(delta)
        size += delta_size
    joined.append(_joined(group))
    return joined


def _joins(before: MessageDelta, after: MessageDelta) -> bool:
    return (
        before.part_index == after.part_index
        and before.part_end is None
        and before.provider_state is None
        and before.payload is not None
        and (after.payload is None or type(before.payload) is type(after.payload))
        and not _restarts(after.payload)
    )


def _restarts(payload: DeltaPayload | None) -> bool:
    """Whether a payload replaces something: then readers must see it as it came."""
    match payload:
        case ToolCallDelta():
            return bool(payload.id or payload.name)
        case BlobDelta():
            return bool(payload.mime_type or payload.url or payload.file_id)
        case _:
            return False


def _joined(group: list[MessageDelta]) -> MessageDelta:
    if len(group) == 1:
        return group[0]
    first, last = group[0], group[-1]
    return MessageDelta(
        part_index=first.part_index,
        offset=first.offset,
        payload=_joined_payload([each.payload for each in group if each.payload is not None]),
        part_end=last.part_end,
        provider_state=last.provider_state,
        annotations=tuple(annotation for each in group for annotation in each.annotations),
        logprobs=tuple(logprob for each in group for logprob in each.logprobs),
    )


def _joined_payload(payloads: list[DeltaPayload]) -> DeltaPayload:
    first = payloads[0]
    if isinstance(first, ToolCallDelta):
        arguments = "".join(each.arguments for each in payloads if isinstance(each, ToolCallDelta))
        return dataclasses.replace(first, arguments=arguments)
    if isinstance(first, BlobDelta):
        return dataclasses.replace(first, data=b"".join(each.data for each in payloads if isinstance(each, BlobDelta)))
    texts = [each.text for each in payloads if not isinstance(each, ToolCallDelta | BlobDelta)]
    return _with_text(type(first), "".join(texts))
