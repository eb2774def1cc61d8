"""Whether an address can be listened on, and why not: for `serve`, before it opens anything, and for `doctor`."""

import errno
import socket
from dataclasses import dataclass
from typing import Any

from midstream_server.cli.processes import listener_on


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why nobody can listen there, and what to do about it."""

    message: str
    advice: str
    is_taken: bool = False
    """Another process listens there."""


def find_obstacle(host: str, port: int) -> Obstacle | None:
    """Tries, and lets go again; None: it can be listened on, as gRPC does: at one address of the host at least."""
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return Obstacle(
            f"the host of {listen} is unknown", "listen on 127.0.0.1, or on an address that this machine has"
        )
    if host == "::":  # a machine without IPv6 listens on all that it has
        addresses += socket.getaddrinfo("0.0.0.0", port, type=socket.SOCK_STREAM)
    errors = []
    for family, _, _, _, address in addresses:
        try:
            _bind(family, address)
        except OSError as error:
            errors.append(error)
        else:
            return None
    taken = (each for each in errors if each.errno == errno.EADDRINUSE)
    return _obstacle(listen, port, next(taken, errors[0]))


def _bind(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)


def _obstacle(listen: str, port: int, error: OSError) -> Obstacle:
    match error.errno:
        case errno.EADDRINUSE:
            who = listener_on(port)
            return Obstacle(
                f"the port of {listen} is taken{f' by {who}' if who else ''}",
                "stop it, or listen elsewhere: --listen 127.0.0.1:PORT (port 0 picks a free one)",
                is_taken=True,
            )
        case errno.EADDRNOTAVAIL:
            return Obstacle(f"this machine has no address {listen}", "listen on one that it has, or on 0.0.0.0")
        case errno.EACCES:
            return Obstacle(f"{listen} needs privileges", "use a port from 1024 on")
    return Obstacle(f"cannot listen on {listen}: {error.strerror}", "choose another address")
