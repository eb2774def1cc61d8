"""What Cohere says of the text of an answer: what it cites, how likely it is."""

import io
import math

from midstream_server.model import Annotation, JsonValue, TokenLogprob
from midstream_server.upstreams.base import PartDelta
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, encode_json

_MAX_CITATIONS = 256
_MAX_RAW = 4096


class SaidTexts:
    """The parts of text as far as they came: citations count characters, we count bytes."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[str, io.StringIO]] = {}
        """The key and the text of a part, by the index of its block; the latest is the last."""
        self._citations = 0

    def add(self, index: int, key: str, text: str) -> None:
        """More text of a part."""
        known = self._texts.get(index)
        if known is None or known[0] != key:
            self._texts.pop(index, None)
            known = self._texts[index] = (key, io.StringIO())
        known[1].write(text)

    def cite(self, citation: dict[str, JsonValue]) -> PartDelta | None:
        """A citation as an annotation for each of its sources: https://docs.cohere.com/docs/rag-citations.

        None: it is of no text (but of a thought or a plan), or there were too many.
        """
        place, index = citation.get("type"), as_count(citation.get("content_index"))
        sources = [as_object(each) for each in as_list(citation.get("sources"))] or [{}]
        sources = sources[: _MAX_CITATIONS - self._citations]
        if not self._texts or place not in (None, "TEXT_CONTENT") or not sources:
            return None
        latest = next(reversed(self._texts.values()))
        key, text = latest if index is None else self._texts.get(index, latest)
        self._citations += len(sources)
        raw, offsets = encode_json(citation), _offsets(text.getvalue(), citation)
        raw = raw if len(raw) <= _MAX_RAW else ""
        return PartDelta(part=key, annotations=tuple(_annotation(source, offsets, raw) for source in sources))


def _offsets(text: str, citation: dict[str, JsonValue]) -> tuple[int | None, int | None]:
    """From where to where, in bytes; nothing where the cited words are not."""
    start, end = as_count(citation.get("start")), as_count(citation.get("end"))
    if start is None or end is None or text[start:end] != citation.get("text"):
        return None, None
    try:
        return len(text[:start].encode()), len(text[:end].encode())
    except UnicodeEncodeError:
        return None, None  # half of a surrogate pair, which is something else in the part


def _annotation(source: dict[str, JsonValue], offsets: tuple[int | None, int | None], raw: str) -> Annotation:
    document = as_object(source.get("document"))
    return Annotation(
        type=as_text(source.get("type")) or "citation",
        url=as_text(document.get("url")),
        title=as_text(document.get("title")) or as_text(source.get("id")),
        start_offset=offsets[0],
        end_offset=offsets[1],
        raw_json=raw,
    )


def read_logprobs(item: JsonValue) -> tuple[TokenLogprob, ...]:
    """A piece of text with a probability for each of its tokens, which it does not tell apart: that of them all."""
    fields = as_object(item)
    given = as_list(fields.get("logprobs"))
    logprobs = [float(each) for each in given if isinstance(each, float | int) and not isinstance(each, bool)]
    if not given or len(logprobs) != len(given) or not all(map(math.isfinite, logprobs)):
        return ()
    text = as_text(fields.get("text")).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return (TokenLogprob(token=text, logprob=math.fsum(logprobs)),)
