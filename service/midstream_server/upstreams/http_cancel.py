"""Stopping an answer with a call of its own, at an upstream that goes on without its reader."""

import asyncio
from collections.abc import Iterable
from urllib.parse import quote

import httpx
import structlog

from midstream_server.upstreams.base import HttpRequest, ModelFinished, ResponseStarted, UpstreamEvent
from midstream_server.upstreams.http_errors import SEND_ERRORS
from midstream_server.upstreams.http_exchange import Exchange, HttpClient

_SECONDS = 5.0
_log = structlog.get_logger(__name__)


class RemoteCancel:
    """Knows whether an answer must be stopped by a call, and by which.

    Args:
        path: the profile's `remote_cancel`; empty: a hang-up is enough.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._response_id = ""

    def note(self, events: Iterable[UpstreamEvent]) -> None:
        """The answer goes on, or has ended by itself."""
        if not self._path:
            return
        for event in events:
            if isinstance(event, ResponseStarted):
                self._response_id = event.upstream_request_id or self._response_id
            elif isinstance(event, ModelFinished):
                self._path = ""

    def take_request(self) -> HttpRequest | None:
        """The call that stops it, once. None: there is nothing to stop, or no id to name it by."""
        if not (self._path and self._response_id):
            return None
        path, self._path = self._path, ""
        return HttpRequest(path=path.replace("{id}", quote(self._response_id, safe="")), body=b"")


async def cancel_remotely(client: HttpClient, request: httpx.Request, upstream: str) -> None:
    """Asks the upstream to stop an answer; that it would not is logged. Cancelling it closes the connection."""
    exchange = Exchange(client, request, lambda: None)
    try:
        async with asyncio.timeout(_SECONDS):
            response = await exchange.open()
        if response.status_code >= 300:
            _log.warning("upstream.remote_cancel_refused", upstream=upstream, http_status=response.status_code)
    except (TimeoutError, *SEND_ERRORS) as error:
        _log.warning("upstream.remote_cancel_failed", upstream=upstream, error=type(error).__name__)
    finally:
        await exchange.aclose()
