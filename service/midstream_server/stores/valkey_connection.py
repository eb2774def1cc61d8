"""One connection to one server: pipelines in, replies out. Only its owner may use it, one pipeline at a time."""

import asyncio
import math
import ssl
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Connection, SSLConnection
from redis.exceptions import RedisError, ResponseError

from midstream_server.stores.valkey_address import Node, ValkeyAddress
from midstream_server.stores.valkey_rows import Argument

CONNECT_SECONDS = 2.0
REPLY_SECONDS = 5.0
"""How long a pipeline may take; one that takes longer ends the connection, and nobody can tell what took effect."""

Command = tuple[Argument, ...]
# A reply is what the server says: integers, bytes, None, nested lists of them; or the error of this one command.
Reply = Any


def pack(command: Command) -> bytes:
    """A command as it is sent. The driver's own way takes three times as long, which every delta would pay."""
    pieces = [b"*%d\r\n" % len(command)]
    for argument in command:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(pieces)


class ValkeyConnection:
    """A connection, opened and logged in. After any error that it raises it is closed."""

    def __init__(self, address: ValkeyAddress, node: Node) -> None:
        self._connection = _new_connection(address, node)

    async def open(self) -> None:
        """Connects.

        Raises:
            OSError, RedisError: it cannot.
        """
        async with asyncio.timeout(CONNECT_SECONDS):
            await self._connection.connect()  # type: ignore[no-untyped-call]  # theirs has none

    async def execute(self, commands: Sequence[Command]) -> list[Reply]:
        """Sends commands together and reads all their replies; an error of one of them is its reply.

        Raises:
            OSError, RedisError: the connection is lost.
        """
        return await self.execute_packed([pack(command) for command in commands], len(commands))

    async def execute_packed(self, data: Sequence[bytes], count: int) -> list[Reply]:
        """As `execute`, with so many commands that are packed already."""
        async with asyncio.timeout(REPLY_SECONDS):
            await self._connection.send_packed_command(data, check_health=False)
            return [await self._read() for _ in range(count)]

    async def send(self, commands: Sequence[Command]) -> None:
        """Sends commands."""
        await self._connection.send_packed_command([pack(command) for command in commands], check_health=False)

    async def receive(self, seconds: float) -> Reply | None:
        """The next message that was not asked for; None: nothing came in this time."""
        return await self._connection.read_response(disable_decoding=True, timeout=seconds)

    async def _read(self) -> Reply:
        try:
            return await self._connection.read_response(disable_decoding=True, timeout=math.inf)
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Lets go. Safe to call twice."""
        try:
            await self._connection.disconnect(nowait=True)
        except (OSError, RedisError):
            return


def _new_connection(address: ValkeyAddress, node: Node) -> Connection:
    options: dict[str, Any] = {
        "host": node[0],
        "port": node[1],
        "db": address.database,
        "username": address.username or None,
        "password": address.password or None,
        # Waits are bounded here, once for a whole pipeline.
        "socket_timeout": None,
        "socket_connect_timeout": CONNECT_SECONDS,
        "protocol": 2,
        "driver_info": None,
    }
    if not address.tls:
        return Connection(**options)
    return SSLConnection(
        **options,
        ssl_ca_certs=address.ca_file or None,
        ssl_min_version=ssl.TLSVersion.TLSv1_2,
        ssl_check_hostname=True,
    )
