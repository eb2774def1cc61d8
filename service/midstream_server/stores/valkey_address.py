"""What a `valkey://` or `valkeys://` address says."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

from midstream_server.errors import InvalidSettings

DEFAULT_PORT = 6379

Node = tuple[str, int]
"""Host and port of a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValkeyAddress:
    """Where the store is. Of a cluster or of replicated servers any node will do; several are tried in turn."""

    nodes: tuple[Node, ...]
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    ca_file: str = ""
    """Certificates to trust instead of the system's."""


def parse_address(url: str) -> ValkeyAddress:
    """Takes `valkey://[user[:password]@]host[:port][,host[:port]…][/database][?ca_file=path]` apart.

    Raises:
        InvalidSettings: it is not such an address.
    """
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    database = parts.path.strip("/")
    options = parse_qs(parts.query)
    if parts.scheme not in ("valkey", "valkeys") or not hosts:
        raise InvalidSettings("store: must be valkey://host:port/db or valkeys://host:port/db")
    if database and not (database.isascii() and database.isdigit()):
        raise InvalidSettings("store: what follows the host must be the number of a database, such as /0")
    if unknown := sorted(options.keys() - {"ca_file"}):
        raise InvalidSettings(f"store: unknown option {unknown[0]!r}; there is ca_file")
    return ValkeyAddress(
        nodes=tuple(_node(host) for host in hosts.split(",")),
        database=int(database or 0),
        username=unquote(username),
        password=unquote(password),
        tls=parts.scheme == "valkeys",
        ca_file=options.get("ca_file", [""])[0],
    )


def _node(text: str) -> Node:
    host, port = text, str(DEFAULT_PORT)
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif ":" in text:
        host, _, port = text.partition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidSettings("store: each server must be host or host:port, an IPv6 host in brackets")
    return host, int(port)
