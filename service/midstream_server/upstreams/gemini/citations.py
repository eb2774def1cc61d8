"""Citations, search queries and log probabilities of a Gemini candidate."""

import math

from midstream_server.model import Annotation, JsonValue, TokenLogprob
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, encode_json

_MAX_CITATIONS = 256
_MAX_RAW = 4096
_MAX_TOP = 32


class CitationList:
    """Each citation once: a stream repeats what it said before.

    https://ai.google.dev/gemini-api/docs/google-search, https://ai.google.dev/api/generate-content#citationmetadata
    """

    def __init__(self) -> None:
        self._seen: set[Annotation] = set()

    def new(self, candidate: dict[str, JsonValue], *, offsets_fit: bool) -> tuple[Annotation, ...]:
        """The citations that were not told before. Gemini counts bytes, in the whole text of the answer.

        `offsets_fit` False: that text is not one part of ours, so the offsets are left to `raw_json`.
        """
        metadata = candidate.get("citationMetadata")
        sources = as_object(metadata).get("citationSources") or as_object(metadata).get("citations")
        found = [_annotation("citation", source, source, offsets_fit) for source in _objects(sources)]
        found += _grounding(as_object(candidate.get("groundingMetadata")), offsets_fit)
        fresh = [each for each in dict.fromkeys(found) if each not in self._seen][: _MAX_CITATIONS - len(self._seen)]
        self._seen.update(fresh)
        return tuple(fresh)


def search_queries(candidate: dict[str, JsonValue]) -> str:
    """What the model searched for, as a JSON list; empty if nothing."""
    queries = as_list(as_object(candidate.get("groundingMetadata")).get("webSearchQueries"))
    return encode_json([each for each in queries if isinstance(each, str)]) if queries else ""


def read_logprobs(result: JsonValue) -> tuple[TokenLogprob, ...]:
    """https://ai.google.dev/api/generate-content#LogprobsResult."""
    if not isinstance(result, dict):
        return ()
    tops = as_list(result.get("topCandidates"))
    tokens = []
    for position, chosen in enumerate(_objects(result.get("chosenCandidates"))):
        candidates = as_object(tops[position]).get("candidates") if position < len(tops) else None
        top = tuple(each for item in _objects(candidates)[:_MAX_TOP] if (each := _token(item)))
        if token := _token(chosen, top):
            tokens.append(token)
    return tuple(tokens)


def _token(value: dict[str, JsonValue], top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob | None:
    token, logprob = value.get("token"), value.get("logProbability")
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    text = token.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return None if math.isnan(logprob) else TokenLogprob(token=text, logprob=float(logprob), top=top)


def _grounding(metadata: dict[str, JsonValue], offsets_fit: bool) -> list[Annotation]:
    """Every page for every passage that it supports; a page that supports none in particular, once."""
    pages = [_page(chunk) for chunk in as_list(metadata.get("groundingChunks"))[:_MAX_CITATIONS]]
    found: list[Annotation] = []
    used: set[int] = set()
    for support in _objects(metadata.get("groundingSupports")):
        segment = as_object(support.get("segment"))
        for index in map(as_count, as_list(support.get("groundingChunkIndices"))):
            if index is not None and index < len(pages):
                used.add(index)
                found.append(_annotation("grounding", pages[index], segment, offsets_fit, support))
    rest = [page for index, page in enumerate(pages) if index not in used and page]
    return found + [_annotation("grounding", page, {}, False, page) for page in rest]


def _page(chunk: JsonValue) -> dict[str, JsonValue]:
    """A web page, a document or a place."""
    return next((each for each in as_object(chunk).values() if isinstance(each, dict)), {})


def _annotation(
    kind: str,
    source: dict[str, JsonValue],
    segment: dict[str, JsonValue],
    offsets_fit: bool,
    raw: dict[str, JsonValue] | None = None,
) -> Annotation:
    text = encode_json(source if raw is None else raw)
    end = as_count(segment.get("endIndex"))
    fits = offsets_fit and end is not None and not segment.get("partIndex")
    return Annotation(
        type=kind,
        url=as_text(source.get("uri")),
        title=as_text(source.get("title")),
        start_offset=as_count(segment.get("startIndex", 0)) if fits else None,
        end_offset=end if fits else None,
        raw_json=text if len(text) <= _MAX_RAW else "",
    )


def _objects(value: JsonValue) -> list[dict[str, JsonValue]]:
    return [each for each in as_list(value)[:_MAX_CITATIONS] if isinstance(each, dict)]
