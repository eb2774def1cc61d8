"""Through generated stubs, as somebody writes who has nothing else."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from interop.python.callers import Endpoint
from interop.python.expect import CallFailed, Failure, expect
from interop.python.transcript import Transcript, payload_of, payload_of_part
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import generation_service_pb2_grpc as service_grpc
from midstream.v1 import run_pb2 as wire

_Answer = TypeVar("_Answer")
_WAIT = Duration(seconds=15)
_RESUME_SECONDS = 10.0
_PAUSE_SECONDS = 0.1
_LOST = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.CANCELLED,
    }
)
_GRACE = wire.DetachPolicy(action=wire.DetachPolicy.ACTION_GRACE, grace=Duration(seconds=10))
_CANCEL = wire.DetachPolicy(action=wire.DetachPolicy.ACTION_CANCEL)


class RawReader:
    """A call, and after a loss the next one."""

    def __init__(
        self,
        stub: "service_grpc.GenerationServiceAsyncStub",
        opening: service_wire.GenerateRequest | service_wire.WatchRunRequest,
        metadata: Sequence[tuple[str, str]],
        deadline: float | None,
    ) -> None:
        self._stub = stub
        self._opening = opening
        self._metadata = metadata
        self._deadline = deadline
        self._lost_time: float | None = None
        after = opening.after_sequence if isinstance(opening, service_wire.WatchRunRequest) else 0
        self.transcript = Transcript(after)
        self.events: list[wire.RunEvent] = []
        self.call = self._next_call()

    async def next(self) -> bool:
        """One event."""
        while True:
            try:
                event = await self.call.read()
            except grpc.aio.AioRpcError as error:
                await self._resume_after(error)
                continue
            if event is grpc.aio.EOF:
                return False
            assert isinstance(event, wire.RunEvent)
            self._lost_time = None
            self._take(event)
            return True

    async def final(self) -> wire.Run:
        """Of the last event, which must be the one RunFinished."""
        while await self.next():
            pass
        kinds = [event.WhichOneof("event") for event in self.events]
        expect((kinds.count("finished"), kinds[-1:]), (1, ["finished"]), "RunFinished events, and the last event")
        return self.events[-1].finished.run

    async def leave(self) -> None:
        """Cancels the call."""
        self.call.cancel()

    def _next_call(self) -> "grpc.aio.UnaryStreamCall[Any, wire.RunEvent]":
        last, opening = self.transcript.last_sequence, self._opening
        if last and isinstance(opening, service_wire.GenerateRequest):
            opening = service_wire.WatchRunRequest(run_id=opening.run_id, after_sequence=last, claim=True)
        if isinstance(opening, service_wire.GenerateRequest):
            return self._stub.Generate(opening, timeout=self._deadline, metadata=self._metadata)
        return self._stub.WatchRun(opening, timeout=self._deadline, metadata=self._metadata)

    async def _resume_after(self, error: grpc.aio.AioRpcError) -> None:
        failure = failure_of(error)
        now = time.monotonic()
        is_first, self._lost_time = self._lost_time is None, self._lost_time or now
        if error.code() not in _LOST or failure.reason or now > self._lost_time + _RESUME_SECONDS:
            raise CallFailed(failure) from error
        await asyncio.sleep(0 if is_first else _PAUSE_SECONDS)
        self.call = self._next_call()

    def _take(self, event: wire.RunEvent) -> None:
        self.events.append(event)
        match event.WhichOneof("event"):
            case "progress":
                return
            case "snapshot":
                self.transcript.last_sequence = event.sequence
                for index, part in enumerate(event.snapshot.run.message.parts):
                    self.transcript.append(index, 0, payload_of_part(part))
                return
            case "delta":
                delta = event.delta
                call = delta.tool_call if delta.HasField("tool_call") else None
                payload = payload_of(delta.text, delta.reasoning, delta.refusal, call)
                self.transcript.append(delta.part_index, delta.offset, payload)
        self.transcript.entry(event.first_sequence or event.sequence, event.sequence)


class RawCaller:
    """One channel for streams, one for everything else."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._streams, self._control = _channel(endpoint), _channel(endpoint)
        self.streams = service_grpc.GenerationServiceStub(self._streams)
        self.stub = service_grpc.GenerationServiceStub(self._control)
        self.metadata = (("authorization", f"Bearer {endpoint.api_key}"),) if endpoint.api_key else ()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._streams.close()
        await self._control.close()

    async def start(
        self, run_id: str, model: str, text: str, *, deadline: float | None = None, leaves: bool = False, **fields: Any
    ) -> RawReader:
        """Calls Generate. With `leaves`, on_detach is CANCEL."""
        if fields.get("on_detach") == "cancel" or leaves:
            fields["on_detach"] = _CANCEL
        message = wire.Message(role=wire.ROLE_USER, parts=[wire.Part(text=wire.Text(text=text))])
        request = service_wire.GenerateRequest(
            run_id=run_id, model=model, messages=[message], **{"on_detach": _GRACE, **fields}
        )
        return RawReader(self.streams, request, self.metadata, deadline)

    async def watch(self, run_id: str, *, after: int | None = None, from_snapshot: bool = False) -> RawReader:
        """Calls WatchRun without a claim."""
        request = service_wire.WatchRunRequest(run_id=run_id)
        if from_snapshot:
            request.from_snapshot = True
        elif after is not None:
            request.after_sequence = after
        return RawReader(self.streams, request, self.metadata, None)

    async def cancel(self, run_id: str, reason: str = "") -> service_wire.CancelResponse:
        """Calls Cancel."""
        return await self._answered(self.stub.Cancel, service_wire.CancelRequest(run_id=run_id, reason=reason))

    async def get(self, run_id: str, *, wait: bool = False, replay: bool = False) -> wire.Run:
        """Calls GetRun."""
        request = service_wire.GetRunRequest(run_id=run_id, wait_until_finished=wait)
        if wait:
            request.max_wait.CopyFrom(_WAIT)
        if replay:
            request.message_view = service_wire.MESSAGE_VIEW_REPLAY
        return await self._answered(self.stub.GetRun, request)

    async def delete(self, run_id: str) -> None:
        """Calls DeleteRun."""
        await self._answered(self.stub.DeleteRun, service_wire.DeleteRunRequest(run_id=run_id))

    async def list(self, labels: dict[str, str], *, state: int = 0, page_size: int = 0) -> Sequence[wire.Run]:
        """Calls ListRuns until there is no more."""
        runs: list[wire.Run] = []
        token = ""
        while True:
            page = await self.page(labels, state=state, page_size=page_size, page_token=token)
            runs += page.runs
            if not (token := page.next_page_token):
                return runs

    async def page(self, labels: dict[str, str], **fields: Any) -> service_wire.ListRunsResponse:
        """One page."""
        return await self._answered(self.stub.ListRuns, service_wire.ListRunsRequest(labels=labels, **fields))

    async def models(self) -> service_wire.ListModelsResponse:
        """Calls ListModels."""
        return await self._answered(self.stub.ListModels, service_wire.ListModelsRequest())

    async def _answered(self, method: Callable[..., Awaitable[_Answer]], request: object) -> _Answer:
        call = method(request, timeout=20, metadata=self.metadata)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise CallFailed(failure_of(error)) from error


def failure_of(error: Any) -> Failure:
    """The status, the reason and the fields of an error."""
    status = rpc_status.from_call(error)
    reasons, fields = [], []
    for detail in status.details if status else ():
        info, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            expect(info.domain, "midstream.v1", "domain")
            reasons.append(info.reason)
        elif detail.Unpack(request):
            fields += [(each.field, each.description) for each in request.field_violations]
    expect(len(reasons) <= 1, True, f"at most one ErrorInfo in {reasons}")
    return Failure(error.code(), "".join(reasons), fields)


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    options = (("grpc.use_local_subchannel_pool", 1),)
    if endpoint.ca_file is None:
        return grpc.aio.insecure_channel(endpoint.target, options=options)
    credentials = grpc.ssl_channel_credentials(Path(endpoint.ca_file).read_bytes())
    return grpc.aio.secure_channel(endpoint.target, credentials, options=options)
