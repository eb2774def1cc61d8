"""The thread that owns the SQLite file. No cancel can reach it.

Operations wait in a queue. The thread takes all that wait, executes them as one transaction, and hands over all the
results in one step. If one of them fails, or the commit, everything is taken back and each is tried in a transaction of
its own, so that only what fails by itself fails.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import apsw
import structlog

from midstream_server.errors import MidstreamError, StoreUnavailable

_log = structlog.get_logger(__name__)


class Transactional(Protocol):
    """What the thread owns."""

    def commit(self) -> None:
        """Makes durable what was done since the last commit."""
        ...

    def rollback(self) -> None:
        """Takes back what was done since the last commit."""
        ...

    def maintain(self, *, idle: bool) -> None:
        """Does what is due between two transactions."""
        ...

    def close(self) -> None:
        """Lets go of the file."""
        ...


DatabaseT = TypeVar("DatabaseT", bound=Transactional)
ResultT = TypeVar("ResultT")

# A future of any type: the queue carries operations of all types, and each future has its own operation's.
_Job = tuple["asyncio.Future[Any]", Callable[[DatabaseT], Any]]
_Outcome = tuple["asyncio.Future[Any]", Any, Exception | None]


class SqliteWriter(Generic[DatabaseT]):
    """Executes operations on a database in the order in which they come, on a thread of its own."""

    def __init__(self, open_database: Callable[[], DatabaseT]) -> None:
        self._open_database = open_database
        self._queue: queue.SimpleQueue[_Job[DatabaseT] | None] = queue.SimpleQueue()
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._thread: threading.Thread | None = None

    async def open(self) -> None:
        """Starts the thread, which opens the database; raises what that raises."""
        self._loop = asyncio.get_running_loop()
        self._queue = queue.SimpleQueue()
        opened, self._ended = self._loop.create_future(), self._loop.create_future()
        # A daemon: a process that was not closed in order must still be able to exit.
        arguments = (opened, self._ended)
        self._thread = threading.Thread(target=self._run, args=arguments, name="sqlite-writer", daemon=True)
        self._thread.start()
        self._is_open = True
        try:
            await opened
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Lets the thread finish what it was asked for; safe to call twice."""
        if self._is_open:
            self._is_open = False
            self._queue.put(None)
        if self._ended is not None and self._thread is not None:
            await asyncio.shield(self._ended)
            # It has nothing left to do but to end.
            self._thread.join()

    async def call(self, operation: Callable[[DatabaseT], ResultT]) -> ResultT:
        """Executes an operation; a cancel of the caller changes nothing.

        Raises:
            StoreUnavailable: SQLite could not do it, or the store is closed.
        """
        if not self._is_open or self._loop is None:
            raise StoreUnavailable("the run store is closed")
        future: asyncio.Future[ResultT] = self._loop.create_future()
        self._queue.put((future, operation))
        return await future

    # --- On the thread -----------------------------------------------------------------------------------------------

    def _run(self, opened: "asyncio.Future[None]", ended: "asyncio.Future[None]") -> None:
        try:
            database = self._open_database()
        except Exception as error:
            self._deliver([(opened, None, error), (ended, None, None)])
            return
        self._deliver([(opened, None, None)])
        try:
            self._serve(database)
        finally:
            _attempt(database.close)
            self._deliver([(ended, None, None)])

    def _serve(self, database: DatabaseT) -> None:
        stopping = False
        while not stopping:
            jobs, stopping = self._take()
            if not self._deliver(_execute(database, jobs)):
                return
            database.maintain(idle=self._queue.empty())

    def _take(self) -> tuple[list[_Job[DatabaseT]], bool]:
        """All that waits, and whether this is the end; waits for the first."""
        jobs: list[_Job[DatabaseT]] = []
        job = self._queue.get()
        while job is not None:
            jobs.append(job)
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return jobs, False
        return jobs, True

    def _deliver(self, outcomes: Sequence[_Outcome]) -> bool:
        """Hands results over. False: the loop is closed, so nobody waits for anything any more."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, outcomes)
        except RuntimeError:
            return False
        return True


def _execute(database: DatabaseT, jobs: Sequence[_Job[DatabaseT]]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    try:
        for future, operation in jobs:
            try:
                outcomes.append((future, operation(database), None))
            except MidstreamError as error:
                outcomes.append((future, None, error))
        database.commit()
    except Exception as error:
        _attempt(database.rollback)
        if len(jobs) == 1:
            return [(jobs[0][0], None, _translate(error))]
        return [outcome for job in jobs for outcome in _execute(database, [job])]
    return outcomes


def _attempt(step: Callable[[], None]) -> None:
    """Does what is done after a failure, and must not become another."""
    try:
        step()
    except apsw.Error as error:
        _log.warning("store.cleanup_failed", error=str(error))


def _translate(error: Exception) -> Exception:
    if not isinstance(error, apsw.Error):
        return error
    unavailable = StoreUnavailable("the disk of the run store is full" if isinstance(error, apsw.FullError) else "")
    unavailable.__cause__ = error
    return unavailable


def _resolve(outcomes: Sequence[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
