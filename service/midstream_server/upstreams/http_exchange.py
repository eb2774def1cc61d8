"""One HTTP request that can be cut off at any moment, and the pool of connections that it goes out on.

httpx makes the requests and its aiohttp transport the connections (httpx's own leaks a slot of its pool when a request
is cancelled twice). The exchange takes hold of the connection before the answer begins, so that it can close it in the
turn of the loop in which it is asked to.
"""

import asyncio
import contextlib
import ssl
import weakref
import zlib
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from httpx_aiohttp import AiohttpTransport
from typing_extensions import override

_USER_AGENT = "midstream"
_INFLATED_BYTES = 256 * 1024
"""How much one read may become when it is inflated; the rest waits for the next."""
_PIECE_BYTES = 256 * 1024
_current: ContextVar["Exchange | None"] = ContextVar("midstream_http_exchange", default=None)


class BodyError(Exception):
    """The body broke off, or cannot be read. `cause` tells."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause
        super().__init__(type(cause).__name__)


class _TrackedResponse(aiohttp.ClientResponse):
    """Tells the exchange on which connection its request went out."""

    @override
    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        if (exchange := _current.get()) is None:
            return await super().start(connection)
        exchange.sent(connection, self)
        await super().start(connection)
        exchange.answered(self.content)
        return self


class HttpClient:
    """The connections to all upstreams: as many as are needed, no redirects, no cookies, no proxies of the environment.

    Must be closed in the loop in which it was used.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        context = tls or ssl.create_default_context()
        self._used: weakref.WeakSet[object] = weakref.WeakSet()
        self._http = httpx.AsyncClient(
            transport=AiohttpTransport(verify=context, client=lambda: _make_session(context)),
            trust_env=False,
            follow_redirects=False,
            timeout=None,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers={"accept-encoding": "identity", "user-agent": _USER_AGENT},
        )

    def build_request(
        self, method: str, url: httpx.URL, headers: dict[str, str], content: bytes | None = None
    ) -> httpx.Request:
        """A request with the client's own headers besides. A large body is sent piece by piece, not copied at once."""
        if content is not None and len(content) > _PIECE_BYTES:
            headers = {**headers, "content-length": str(len(content))}
            return self._http.build_request(method, url, headers=headers, content=_pieces(content))
        return self._http.build_request(method, url, headers=headers, content=content)

    async def send(self, request: httpx.Request) -> httpx.Response:
        """The head of the answer; its body is not read."""
        return await self._http.send(request, stream=True)

    def is_reused(self, protocol: ResponseHandler) -> bool:
        """Whether a connection had carried a request before; from now on it has."""
        if protocol in self._used:
            return True
        self._used.add(protocol)
        if (closed := protocol.closed) is not None:
            closed.add_done_callback(_take_note)
        return False

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._http.aclose()


def _take_note(closed: asyncio.Future[None]) -> None:
    """Looks at how a connection ended, which asyncio wants somebody to do."""
    if not closed.cancelled():
        closed.exception()


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]


def _make_session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        response_class=_TrackedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
    )


class Exchange:
    """One request and its answer. `open` once, then `read` to the end; always `aclose`.

    Args:
        client: where the connection comes from.
        request: what is sent.
        on_sent: called when there is a connection and the request is on its way.
    """

    def __init__(self, client: HttpClient, request: httpx.Request, on_sent: Callable[[], None]) -> None:
        self._client = client
        self._request = request
        self._on_sent = on_sent
        self._connection: Connection | None = None
        self._protocol: ResponseHandler | None = None
        self._closed: asyncio.Future[None] | None = None
        self._answer: aiohttp.ClientResponse | None = None
        self._content: aiohttp.StreamReader | None = None
        self._response: httpx.Response | None = None
        self._inflater: zlib._Decompress | None = None
        self.is_reused = False
        """Whether the connection had carried a request before this one."""
        self.wire_bytes = 0
        """Bytes of the body that have been read."""

    def sent(self, connection: Connection, answer: aiohttp.ClientResponse) -> None:
        """Called by the answer when the request's head has been written."""
        self._connection, self._answer = connection, answer
        if (protocol := connection.protocol) is not None:
            self._protocol = protocol
            self.is_reused = self._client.is_reused(protocol)
            self._closed = protocol.closed
            if self._request.headers.get("connection") == "close":
                protocol.force_close()
        self._on_sent()

    def answered(self, content: aiohttp.StreamReader) -> None:
        """Called by the answer when its head has been read."""
        self._content = content
        if self._closed is not None:
            self._closed.add_done_callback(self._wake_reader)

    async def open(self) -> httpx.Response:
        """Sends the request and awaits the head of the answer.

        Cancelling it closes the connection. Raises what httpx and aiohttp raise: `http_errors` knows them.
        """
        token = _current.set(self)
        try:
            self._response = await self._client.send(self._request)
        finally:
            _current.reset(token)
        if encoding := self._response.headers.get("content-encoding", "").strip().lower().removeprefix("identity"):
            if encoding not in ("gzip", "x-gzip", "deflate"):
                raise BodyError(ValueError("unknown content encoding"))
            self._inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        return self._response

    async def read(self) -> bytes:
        """The next bytes of the body, inflated; none at its end. Cancelling it loses nothing but the connection.

        Raises:
            BodyError: the body broke off.
        """
        assert self._content is not None
        while True:
            if self._inflater is not None and self._inflater.unconsumed_tail:
                return self._inflate(self._inflater.unconsumed_tail)
            try:
                data = await self._content.readany()
            except (aiohttp.ClientError, OSError, RuntimeError) as error:
                raise BodyError(error) from error
            self.wire_bytes += len(data)
            if not data or self._inflater is None:
                return data
            if inflated := self._inflate(data):
                return inflated

    def leftover(self) -> bytes:
        """What had arrived before the body broke off and was not read yet: the reader keeps it back after an error."""
        if self._content is None or self._inflater is not None:
            return b""
        self._content.set_exception(None)  # type: ignore[arg-type]  # what it is set to is what it raises: now nothing
        data = self._content.read_nowait()
        self.wire_bytes += len(data)
        return data

    def lost_by(self) -> BaseException | None:
        """How the connection was lost, if the upstream did it: a reset, or a disconnect."""
        return self._protocol.exception() if self._protocol is not None else None

    @property
    def ends_with_connection(self) -> bool:
        """Whether the answer says nothing of its length: then a reset looks like its end."""
        headers = self._response.headers if self._response is not None else {}
        return "content-length" not in headers and "transfer-encoding" not in headers

    def cut(self) -> bool:
        """Closes the connection in this turn of the loop, if there is one. Nothing is flushed, nothing is awaited.

        Returns:
            Whether there was one. A connection that went back to the pool is not ours any more.
        """
        if self._connection is None or (protocol := self._connection.protocol) is None:
            return False
        if protocol.transport is not None:
            protocol.transport.abort()
        self._wake_reader()
        return True

    async def aclose(self) -> None:
        """Leaves nothing open. A connection whose answer was read to its end stays in the pool."""
        if self._closed is not None:
            self._closed.remove_done_callback(self._wake_reader)
        if self._answer is not None:
            if not self._answer.closed:
                self.cut()
            self._answer.close()
        if self._response is not None:
            with contextlib.suppress(aiohttp.ClientError, httpx.HTTPError, OSError):
                await self._response.aclose()

    def _wake_reader(self, _: object = None) -> None:
        """The body cannot go on without its connection; aiohttp forgets to say so after bytes that are no HTTP."""
        content = self._content
        if content is not None and not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError())

    def _inflate(self, data: bytes) -> bytes:
        assert self._inflater is not None
        try:
            return self._inflater.decompress(data, _INFLATED_BYTES)
        except zlib.error as error:
            raise BodyError(error) from error
