"""Through the client library."""

from collections.abc import Awaitable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from interop.python.callers import Endpoint
from interop.python.expect import CallFailed, Failure
from interop.python.transcript import Transcript, payload_of
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire
from midstream_client import AsyncClient, AsyncRunStream, MessageView, MidstreamClientError, RunState

_Answer = TypeVar("_Answer")
_WAIT_SECONDS = 15.0


class ClientReader:
    """An AsyncRunStream. A snapshot comes as deltas of its own, so its first one may begin after sequence 1."""

    def __init__(self, stream: AsyncRunStream, *, begins_after: int | None) -> None:
        self.stream = stream
        self.transcript = Transcript(begins_after or 0)
        self._is_snapshot = begins_after is None

    async def next(self) -> bool:
        """One delta."""
        try:
            delta = await _answered(anext(self.stream))
        except StopAsyncIteration:
            return False
        if self._is_snapshot:
            self.transcript.last_sequence = delta.sequence
            self._is_snapshot = delta.first_sequence <= 1
        else:
            self._take_started()
            self.transcript.entry(delta.first_sequence, delta.sequence)
        payload = payload_of(delta.text, delta.reasoning, delta.refusal, delta.tool_call)
        self.transcript.append(delta.part_index, delta.offset, payload)
        return True

    async def final(self) -> wire.Run:
        """Through `result`, which must not differ from what iterating gave."""
        while await self.next():
            pass
        run = await _answered(self.stream.result())
        self._take_started()
        if self.transcript.last_sequence < run.last_sequence:
            self.transcript.entry(run.last_sequence, run.last_sequence)
        if self.stream.message != run.message and run.HasField("message"):
            raise AssertionError("the stream's message is not the final one")
        return run

    async def leave(self) -> None:
        """The end of its block."""
        await self.stream.aclose()

    def _take_started(self) -> None:
        if self.transcript.last_sequence == 0 and self.stream.started is not None:
            self.transcript.entry(1, 1)


class ClientCaller:
    """An AsyncClient."""

    def __init__(self, endpoint: Endpoint) -> None:
        credentials = grpc.ssl_channel_credentials(Path(endpoint.ca_file).read_bytes()) if endpoint.ca_file else None
        self.client = AsyncClient(endpoint.target, api_key=endpoint.api_key, credentials=credentials)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.client.close()

    async def start(
        self, run_id: str, model: str, text: str, *, deadline: float | None = None, leaves: bool = False, **fields: Any
    ) -> ClientReader:
        """Enters a stream of `generate`. Leaving always stops the run."""
        stream = self.client.generate(model, text, run_id=run_id or None, timeout=deadline, **fields)
        await stream.__aenter__()
        return ClientReader(stream, begins_after=0)

    async def watch(self, run_id: str, *, after: int | None = None, from_snapshot: bool = False) -> ClientReader:
        """Enters a stream of `watch`."""
        stream = self.client.watch(run_id, after_sequence=after, from_snapshot=from_snapshot)
        await stream.__aenter__()
        return ClientReader(stream, begins_after=None if from_snapshot else after or 0)

    async def cancel(self, run_id: str, reason: str = "") -> service_wire.CancelResponse:
        """`cancel`."""
        result = await _answered(self.client.cancel(run_id, reason))
        outcome = service_wire.CancelResponse.Outcome.ValueType(result.outcome)
        return service_wire.CancelResponse(outcome=outcome, run=result.run)

    async def get(self, run_id: str, *, wait: bool = False, replay: bool = False) -> wire.Run:
        """`get`."""
        view = MessageView.REPLAY if replay else MessageView.AS_STREAMED
        return await _answered(self.client.get(run_id, view=view, wait=_WAIT_SECONDS if wait else None))

    async def delete(self, run_id: str) -> None:
        """`delete`."""
        await _answered(self.client.delete(run_id))

    async def list(self, labels: dict[str, str], *, state: int = 0, page_size: int = 0) -> Sequence[wire.Run]:
        """`list`, which reads all pages."""
        runs = self.client.list(labels=labels, state=RunState(state), page_size=page_size)
        return [run async for run in runs]

    async def models(self) -> service_wire.ListModelsResponse:
        """`models`."""
        return await _answered(self.client.models())


async def _answered(work: Awaitable[_Answer]) -> _Answer:
    try:
        return await work
    except MidstreamClientError as error:
        fields = [(each.field, each.description) for each in error.field_violations]
        raise CallFailed(Failure(error.code, error.reason, fields)) from error
