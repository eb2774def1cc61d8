"""HTTP/1.1 requests out of bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit


class BadRequest(Exception):
    """The bytes are no request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def keeps_alive(self) -> bool:
        """Whether the client wants the connection back."""
        return self.headers.get("connection", "").lower() != "close"


def take_request(buffer: bytearray) -> HttpRequest | None:
    """Takes a whole request out of the front of a buffer. None: it is not whole yet.

    Raises:
        BadRequest: it never will be.
    """
    head_length = buffer.find(b"\r\n\r\n")
    if head_length < 0:
        return None
    request_line, *lines = buffer[:head_length].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    taken = _take_body(buffer, head_length + 4, headers)
    if taken is None:
        return None
    body, end = taken
    del buffer[:end]
    try:
        method, target, _ = request_line.split(" ")
    except ValueError as error:
        raise BadRequest(request_line) from error
    url = urlsplit(target)
    return HttpRequest(method=method, path=url.path, query=dict(parse_qsl(url.query)), headers=headers, body=body)


def _take_body(buffer: bytearray, start: int, headers: Mapping[str, str]) -> tuple[bytes, int] | None:
    """The body that starts here, and where it ends."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return _take_chunks(buffer, start)
    try:
        end = start + int(headers.get("content-length", "0"))
    except ValueError as error:
        raise BadRequest("content-length") from error
    return (bytes(buffer[start:end]), end) if len(buffer) >= end else None


def _take_chunks(buffer: bytearray, position: int) -> tuple[bytes, int] | None:
    pieces: list[bytes] = []
    while (line_end := buffer.find(b"\r\n", position)) >= 0:
        try:
            size = int(buffer[position:line_end].split(b";")[0], 16)
        except ValueError as error:
            raise BadRequest("chunk size") from error
        chunk_end = line_end + 2 + size + 2
        if len(buffer) < chunk_end:
            return None
        if size == 0:
            return b"".join(pieces), chunk_end
        pieces.append(bytes(buffer[line_end + 2 : line_end + 2 + size]))
        position = chunk_end
    return None


def encode_head(status: int, headers: Mapping[str, str]) -> bytes:
    """A status line and headers."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Simulated"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
