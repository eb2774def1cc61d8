"""One server that takes writes, and the task that owns the connection to it. No cancel can reach it.

Commands wait in a queue. The task sends all that wait as one pipeline and hands over the replies: one pipeline is in
flight, and what arrives meanwhile goes into the next. At the levels `disk` and `replica` a pipeline ends with a write
and a wait for it, so that nothing in it, reads included, is answered before it is as safe as the level says.
"""

import asyncio
import enum
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import structlog
from redis.exceptions import RedisError, ResponseError

from midstream_server.errors import StoreUnavailable
from midstream_server.stores.valkey_address import Node, ValkeyAddress
from midstream_server.stores.valkey_connection import Command, Reply, ValkeyConnection, pack

MAX_PIPELINE_COMMANDS = 512
MAX_PIPELINE_BYTES = 4 * 1024 * 1024
MAX_WAITING_BYTES = 128 * 1024 * 1024
"""Beyond this, what comes is refused."""
CONFIRM_MILLISECONDS = 3_000
"""How long the disk or a replica may take to confirm."""

_ASKING = pack(("ASKING",))

_log = structlog.get_logger(__name__)


class Level(enum.Enum):
    """How safe a write is before it is answered."""

    PROCESS = "process"
    DISK = "disk"
    REPLICA = "replica"


class Job:
    """A command that waits for its reply. Its future may be gone; it is sent all the same."""

    __slots__ = ("asking", "attempts", "command", "data", "future", "key", "text")

    def __init__(self, key: bytes, command: Command, text: str = "") -> None:
        self.key = key
        self.command = command
        self.data = pack(command)
        self.text = text
        """Of the script, if it is one: a server that does not know it is told."""
        self.attempts = 0
        self.asking = False
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def tell_script(self) -> None:
        """Sends the text of the script next time."""
        self.command = ("EVAL", self.text, *self.command[2:])
        self.data = pack(self.command)

    def succeed(self, reply: Reply) -> None:
        """Hands over the reply."""
        if not self.future.done():
            self.future.set_result(reply)

    def fail(self, error: Exception) -> None:
        """Hands over an error."""
        if not self.future.done():
            self.future.set_exception(error)


class Shard:
    """The server at a node.

    Args:
        address: how to log in.
        node: where it is.
        level: how safe an answered write is.
        script_texts: what it is told at every connect.
        recover: takes care of a job that the server refused without executing it, or fails it.
        on_lost: told when the server cannot be reached.
    """

    def __init__(
        self,
        address: ValkeyAddress,
        node: Node,
        level: Level,
        script_texts: Sequence[str],
        recover: Callable[[Job, ResponseError], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.node = node
        self._address = address
        self._level = level
        self._script_texts = script_texts
        self._recover = recover
        self._on_lost = on_lost
        self._connection: ValkeyConnection | None = None
        self._waiting: deque[Job] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"valkey-shard-{node[0]}:{node[1]}")

    def submit(self, job: Job) -> None:
        """Queues a job; refuses it if too much waits."""
        if self._waiting_bytes + len(job.data) > MAX_WAITING_BYTES or self._is_closing:
            job.fail(StoreUnavailable("too much waits for the run store"))
            return
        self._waiting.append(job)
        self._waiting_bytes += len(job.data)
        self._wake.set()

    async def close(self) -> None:
        """Finishes what waits, and lets go. Safe to call twice."""
        self._is_closing = True
        self._wake.set()
        await asyncio.shield(self._task)

    async def _run(self) -> None:
        while self._waiting or not self._is_closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            jobs = self._take()
            try:
                await self._execute(jobs)
            except (OSError, RedisError) as error:
                await self._lose(jobs, error)
            except Exception as error:
                _log.exception("store.shard_broken")
                await self._lose(jobs, error)
        if self._connection is not None:
            await self._connection.close()

    def _take(self) -> list[Job]:
        jobs: list[Job] = []
        size = 0
        while self._waiting and len(jobs) < MAX_PIPELINE_COMMANDS and size < MAX_PIPELINE_BYTES:
            jobs.append(self._waiting.popleft())
            size += len(jobs[-1].data)
        self._waiting_bytes -= size
        return jobs

    async def _execute(self, jobs: list[Job]) -> None:
        connection = self._connection
        if connection is None:
            connection = await self._connect()
        packed: list[bytes] = []
        for job in jobs:
            if job.asking:
                packed.append(_ASKING)
            packed.append(job.data)
        packed += [pack(command) for command in _confirmation(self._level, jobs[-1].key)]
        replies = iter(await connection.execute_packed(packed, len(packed)))
        answered = [(job, _reply_of(job, replies)) for job in jobs]
        problem = _unconfirmed(self._level, list(replies))
        for job, reply in answered:
            if isinstance(reply, ResponseError):
                self._recover(job, reply)
            elif problem:
                job.fail(StoreUnavailable(problem))
            else:
                job.succeed(reply)

    async def _connect(self) -> ValkeyConnection:
        connection = ValkeyConnection(self._address, self.node)
        try:
            await connection.open()
            await connection.execute([("SCRIPT", "LOAD", text) for text in self._script_texts])
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

    async def _lose(self, jobs: Sequence[Job], error: Exception) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
        else:
            # Nothing was sent, and the others that wait would find the same.
            jobs = [*jobs, *self._waiting]
            self._waiting.clear()
            self._waiting_bytes = 0
        _log.debug("store.connection_lost", node=f"{self.node[0]}:{self.node[1]}", error=repr(error))
        for job in jobs:
            unavailable = StoreUnavailable("the run store cannot be reached")
            unavailable.__cause__ = error
            job.fail(unavailable)
        self._on_lost()


def _reply_of(job: Job, replies: Iterator[Reply]) -> Reply:
    if job.asking:
        next(replies)
        job.asking = False
    return next(replies)


def _confirmation(level: Level, key: bytes) -> list[Command]:
    """A wait counts the writes of its own connection only: a write of ours is behind all that was read before it."""
    fence = ("SET", key + b":fence", b"1", "PX", 60_000)
    if level is Level.DISK:
        return [fence, ("WAITAOF", 1, 0, CONFIRM_MILLISECONDS)]
    if level is Level.REPLICA:
        return [fence, ("WAIT", 1, CONFIRM_MILLISECONDS)]
    return []


def _unconfirmed(level: Level, replies: Sequence[Reply]) -> str:
    """What is wrong with the confirmation; empty: nothing."""
    if level is Level.PROCESS:
        return ""
    for reply in replies:
        if isinstance(reply, ResponseError):
            return f"the run store cannot confirm a write: {reply}"
    if level is Level.DISK:
        return "" if replies[-1][0] >= 1 else "the disk of the run store did not confirm a write in time"
    return "" if replies[-1] >= 1 else "no replica of the run store confirmed a write in time"
