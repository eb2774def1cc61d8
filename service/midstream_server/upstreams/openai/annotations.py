"""Citations, as Chat Completions and Responses have them."""

from midstream_server.model import Annotation, JsonValue
from midstream_server.upstreams.wire.json_text import as_count, as_list, as_object, as_text, encode_json

_MAX_RAW = 4096
_MAX_CITATIONS = 256


def read_annotations(annotations: JsonValue, offsets_are_bytes: bool) -> tuple[Annotation, ...]:
    """The `url_citation`s of a delta: https://platform.openai.com/docs/guides/tools-web-search.

    Providers count characters; where the text is not ASCII the offsets are left out, `raw_json` has them.
    """
    found = []
    for each in as_list(annotations)[:_MAX_CITATIONS]:
        if isinstance(each, dict):
            found.append(_read_annotation(each, offsets_are_bytes))
    return tuple(found)


def _read_annotation(value: dict[str, JsonValue], offsets_are_bytes: bool) -> Annotation:
    kind = as_text(value.get("type")) or "annotation"
    body = as_object(value.get(kind)) or value
    raw = encode_json(value)
    return Annotation(
        type=kind,
        url=as_text(body.get("url")),
        title=as_text(body.get("title")) or as_text(body.get("filename")),
        cited_text=as_text(body.get("content")),
        start_offset=as_count(body.get("start_index")) if offsets_are_bytes else None,
        end_offset=as_count(body.get("end_index")) if offsets_are_bytes else None,
        raw_json=raw if len(raw) <= _MAX_RAW else "",
    )


class CitationList:
    """Perplexity and xAI list the pages of the whole answer, in every chunk again; each is told once.

    https://docs.perplexity.ai/api-reference/chat-completions-post
    """

    def __init__(self) -> None:
        self._last: tuple[JsonValue, JsonValue] = (None, None)
        self._seen: set[str] = set()

    def new(self, chunk: dict[str, JsonValue]) -> tuple[Annotation, ...]:
        """The pages that were not listed before."""
        listed = (chunk.get("citations"), chunk.get("search_results"))
        if listed == self._last:
            return ()
        self._last = listed
        titles = {
            as_text(result.get("url")): as_text(result.get("title"))
            for result in map(as_object, as_list(listed[1])[:_MAX_CITATIONS])
        }
        urls = [url for url in map(_url, as_list(listed[0])[:_MAX_CITATIONS]) if url] or [url for url in titles if url]
        fresh = [url for url in dict.fromkeys(urls) if url not in self._seen][: _MAX_CITATIONS - len(self._seen)]
        self._seen.update(fresh)
        return tuple(Annotation(type="citation", url=url, title=titles.get(url, "")) for url in fresh)


def _url(citation: JsonValue) -> str:
    return citation if isinstance(citation, str) else as_text(as_object(citation).get("url"))
