"""Whether an address can be listened on, and what a person is told if not."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from midstream_server.cli import listening
from midstream_server.cli.listening import find_obstacle


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the system refuse an address, of one family or of all."""

    def refuse(number: int, *families: int) -> None:
        def bind(family: int, _: Any) -> None:
            if not families or family in families:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(listening, "_bind", bind)

    return refuse


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::"])
def test_an_address_that_is_free_is_left_free(host: str):
    """Nothing is in the way, twice: what was tried is let go again."""
    assert find_obstacle(host, 0) is None
    assert find_obstacle(host, 0) is None


def test_a_port_that_was_just_in_use_is_free(listener: socket.socket):
    """A server can be started again at once, while a connection of the last one is still remembered."""
    port = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        listener.accept()[0].close()  # the side that closes first is remembered
        listener.close()

        assert find_obstacle("127.0.0.1", port) is None


def test_a_port_that_is_taken_is_told_with_who_has_it(listener: socket.socket):
    """And with what to do."""
    port = listener.getsockname()[1]

    obstacle = find_obstacle("127.0.0.1", port)

    assert obstacle is not None
    assert obstacle.is_taken
    assert obstacle.message.startswith(f"the port of 127.0.0.1:{port} is taken")
    assert "--listen 127.0.0.1:PORT" in obstacle.advice


def test_a_port_of_one_address_is_taken_for_all_of_them(listener: socket.socket):
    """0.0.0.0 takes in 127.0.0.1."""
    obstacle = find_obstacle("0.0.0.0", listener.getsockname()[1])

    assert obstacle is not None
    assert obstacle.is_taken


def test_a_host_that_nobody_knows_is_told():
    """A name that is reserved for never existing."""
    obstacle = find_obstacle("absent.invalid", 50051)

    assert obstacle is not None
    assert not obstacle.is_taken
    assert obstacle.message == "the host of absent.invalid:50051 is unknown"
    assert "127.0.0.1" in obstacle.advice


def test_an_address_of_another_machine_is_told():
    """From a network that is for documentation only."""
    obstacle = find_obstacle("192.0.2.1", 50051)

    assert obstacle is not None
    assert not obstacle.is_taken
    assert obstacle.message == "this machine has no address 192.0.2.1:50051"


@pytest.mark.parametrize(
    ("number", "message", "advice"),
    [
        (errno.EACCES, "127.0.0.1:80 needs privileges", "use a port from 1024 on"),
        (errno.ENOBUFS, "cannot listen on 127.0.0.1:80: No buffer space available", "choose another address"),
    ],
)
def test_what_the_system_refuses_is_told(refusing: Callable[..., None], number: int, message: str, advice: str):
    """As who runs this may be allowed everything, the system's answer is made up."""
    refusing(number)

    obstacle = find_obstacle("127.0.0.1", 80)

    assert obstacle is not None
    assert (obstacle.message, obstacle.advice, obstacle.is_taken) == (message, advice, False)


def test_a_machine_without_ipv6_listens_on_all_that_it_has(refusing: Callable[..., None]):
    """`::` is then 0.0.0.0, as gRPC has it; an IPv6 address of its own is none."""
    refusing(errno.EADDRNOTAVAIL, socket.AF_INET6)

    obstacle = find_obstacle("::1", 50051)

    assert find_obstacle("::", 50051) is None
    assert obstacle is not None
    assert obstacle.message == "this machine has no address [::1]:50051"
