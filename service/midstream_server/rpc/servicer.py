"""The methods of GenerationService: bytes to values, the supervisor, values to bytes.

A streaming method is a reader with one synchronous clean-up. It never ends by being cancelled by us: a client that did
not cancel would then wait for its deadline.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.empty_pb2 import Empty

from midstream_server.codec import decode_event, encode_run
from midstream_server.engine.supervisor import Claim, ListQuery, Reader, Supervisor
from midstream_server.errors import MidstreamError, SlowReader
from midstream_server.model import DEFAULT_TENANT, CancelReason, MessageView
from midstream_server.replay import replay_view
from midstream_server.rpc import convert

RUN_ID_METADATA = "midstream-run-id"
_DEADLINE_SLACK_SECONDS = 0.05
"""How much of its time a call may have left when gRPC ends it for its deadline while we are blocked in a write."""


class StreamContext(Protocol):
    """What a method needs of a grpc.aio.ServicerContext."""

    async def send_initial_metadata(self, initial_metadata: tuple[tuple[str, str], ...]) -> None:
        """Sends headers."""
        ...

    async def write(self, message: bytes) -> None:
        """Sends a message; waits while the peer does not read."""
        ...

    def time_remaining(self) -> float | None:
        """Seconds to the call's deadline, if it has one."""
        ...


class PeerGone(Exception):
    """The peer left while a message was being sent; there is nobody to tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicerOptions:
    """What the operator decides."""

    default_retention_seconds: float


class GenerationServicer:
    """Each method takes the raw request and gives raw answers; errors are the caller's to map."""

    def __init__(self, supervisor: Supervisor, new_id: Callable[[], str], options: ServicerOptions) -> None:
        self._supervisor = supervisor
        self._new_id = new_id
        self._options = options

    # --- streams --------------------------------------------------------------------------------------------------

    async def generate(self, request: bytes, context: StreamContext) -> None:
        """Generate."""
        start = convert.generate_spec(
            request, new_run_id=self._new_id, default_retention_seconds=self._options.default_retention_seconds
        )
        claim = self._supervisor.new_claim(DEFAULT_TENANT, start.spec.run_id)
        follower = _Follower(self._supervisor, context, claim)
        try:
            reader = await self._supervisor.start(start.spec, start.fingerprint, claim)
            await follower.follow(reader, start.spec.run_id)
        finally:
            follower.leave()

    async def watch_run(self, request: bytes, context: StreamContext) -> None:
        """WatchRun."""
        watch = convert.watch_spec(request)
        claim = self._supervisor.new_claim(DEFAULT_TENANT, watch.run_id) if watch.claim else None
        follower = _Follower(self._supervisor, context, claim)
        try:
            reader = await self._supervisor.watch(
                DEFAULT_TENANT, watch.run_id, watch.after_sequence, from_snapshot=watch.from_snapshot, claim=claim
            )
            await follower.follow(reader, watch.run_id)
        finally:
            follower.leave()

    # --- the others -----------------------------------------------------------------------------------------------

    async def cancel(self, request: bytes, _context: StreamContext) -> bytes:
        """Cancel."""
        cancel = convert.cancel_spec(request)
        outcome, run = await self._supervisor.cancel(
            DEFAULT_TENANT, cancel.run_id, cancel.text, DEFAULT_TENANT, cancel.wait_seconds
        )
        return convert.cancel_response(outcome, run)

    async def get_run(self, request: bytes, _context: StreamContext) -> bytes:
        """GetRun."""
        get = convert.get_spec(request)
        run = await self._supervisor.get(DEFAULT_TENANT, get.run_id, get.wait_seconds)
        return encode_run(replay_view(run) if get.view is MessageView.REPLAY else run)

    async def list_runs(self, request: bytes, _context: StreamContext) -> bytes:
        """ListRuns."""
        wanted = convert.list_spec(request)
        query = ListQuery(
            tenant=DEFAULT_TENANT,
            limit=wanted.limit + 1,
            before=wanted.before,
            state=wanted.filter.state,
            conversation_id=wanted.filter.conversation_id,
            parent_run_id=wanted.filter.parent_run_id,
            labels=wanted.filter.labels,
        )
        runs = await self._supervisor.list_runs(query)
        page = runs[: wanted.limit]
        next_key = (page[-1].create_time, page[-1].run_id) if len(runs) > wanted.limit else None
        return convert.list_response(page, next_key, wanted.filter)

    async def delete_run(self, request: bytes, _context: StreamContext) -> bytes:
        """DeleteRun."""
        await self._supervisor.delete(DEFAULT_TENANT, convert.delete_spec(request))
        return Empty().SerializeToString()

    async def list_models(self, request: bytes, _context: StreamContext) -> bytes:
        """ListModels."""
        convert.list_models(request)
        return convert.models_response(*await self._supervisor.models())


class _Follower:
    """Sends what a reader gives, and says goodbye for it."""

    def __init__(self, supervisor: Supervisor, context: StreamContext, claim: Claim | None) -> None:
        self._supervisor = supervisor
        self._context = context
        self._claim = claim
        self._reader: Reader | None = None
        self._is_ended_by_server = False

    async def follow(self, reader: Reader, run_id: str) -> None:
        """Sends the run to its end.

        Raises:
            SlowReader: the peer did not read for too long after the run had ended.
        """
        self._reader = reader
        first, newest = reader.cursor, b""
        await _sent(self._context.send_initial_metadata(((RUN_ID_METADATA, run_id),)))
        try:
            async with asyncio.timeout(None) as patience:
                reader.on_expire = lambda: patience.reschedule(asyncio.get_running_loop().time())
                while events := await reader.next():
                    for newest in events:
                        await _sent(self._context.write(newest))
        except TimeoutError as error:
            self._is_ended_by_server = True
            # What it was sent: the one that it is blocked on still arrives, the reader's cursor may be further.
            last = decode_event(newest).sequence if newest else first
            raise SlowReader(metadata={"last_sequence": str(last)}) from error
        except MidstreamError:
            self._is_ended_by_server = True
            raise

    def leave(self) -> None:
        """The stream is over, for whatever reason."""
        remaining = self._context.time_remaining()
        is_late = remaining is not None and remaining <= _DEADLINE_SLACK_SECONDS
        reason = CancelReason.DEADLINE if is_late else CancelReason.CLIENT_GONE
        self._supervisor.detach(self._claim, self._reader, reason, by_server=self._is_ended_by_server)


async def _sent(sending: Awaitable[None]) -> None:
    try:
        await sending
    except Exception as error:
        # A peer that leaves while we are blocked on flow control shows as an internal error of gRPC's.
        raise PeerGone from error
