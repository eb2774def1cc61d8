"""The body of an event stream, for parsers of dialects that speak `text/event-stream`."""

from collections.abc import Iterator

from midstream_server.errors import RunFailure, UpstreamMalformed
from midstream_server.upstreams.json_text import decode_json
from midstream_server.upstreams.sse import SseDecoder, SseEvent


class EventStream:
    """The events of a body, and whether it is an event stream at all. Nothing comes after a `failure`."""

    def __init__(self) -> None:
        self._decoder = SseDecoder()
        self._has_started = False
        self.failure: RunFailure | None = None
        """Why the body cannot be read any further; look once its events are used up."""

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that these bytes complete."""
        if not self._has_started:
            start = data.lstrip()[:1]
            self._has_started = bool(start)
            if start == b"<":
                self.failure = UpstreamMalformed("the upstream answered with markup where an event stream should be")
        if self.failure is not None:
            return []
        events = self._decoder.feed(data)
        if self._decoder.overflowed:
            self.failure = UpstreamMalformed("an event of the upstream is larger than 4 MiB")
        return events

    def close(self) -> Iterator[SseEvent]:
        """What the end of the body leaves: an event that it cut counts only if its data is whole."""
        if self.failure is None:
            yield from filter(_is_whole, self._decoder.close())


def _is_whole(event: SseEvent) -> bool:
    if event.error or event.data.strip() == b"[DONE]":
        return True
    try:
        decode_json(event.data)
    except ValueError:
        return False
    return True
