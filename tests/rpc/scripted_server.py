"""A real gRPC server that speaks the contract from a script, to show clients what any server may do."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import NamedTuple, Self

import grpc
from google.protobuf import any_pb2, duration_pb2, empty_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from midstream.v1 import generation_service_pb2, generation_service_pb2_grpc, run_pb2

DOMAIN = "midstream.v1"


class Refusal(NamedTuple):
    """A status that a call gets in place of its answer. An empty reason sends no details."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = ""
    metadata: dict[str, str] = {}  # noqa: RUF012  # never changed
    details: tuple[Message, ...] = ()


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    """When to come back."""
    return error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=round(seconds * 1e9)))


def text_log(
    *texts: str, run_id: str = "run", state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_COMPLETED
) -> list[run_pb2.RunEvent]:
    """The log of a run that made one text part of these pieces."""
    deltas = []
    for index, text in enumerate(texts):
        delta = run_pb2.MessageDelta(offset=len("".join(texts[:index]).encode()), text=text)
        if index == len(texts) - 1:
            delta.part_end = run_pb2.PART_STATE_COMPLETE
        deltas.append(delta)
    part = run_pb2.Part(text=run_pb2.Text(text="".join(texts)), state=run_pb2.PART_STATE_COMPLETE)
    return log_of(deltas, [part] if texts else [], run_id=run_id, state=state)


def log_of(
    deltas: list[run_pb2.MessageDelta],
    parts: list[run_pb2.Part],
    *,
    run_id: str = "run",
    state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_COMPLETED,
) -> list[run_pb2.RunEvent]:
    """A whole log: started, the deltas, finished with these parts."""
    last = len(deltas) + 2
    run = run_pb2.Run(run_id=run_id, state=state, last_sequence=last)
    if parts:
        run.message.CopyFrom(run_pb2.Message(role=run_pb2.ROLE_ASSISTANT, parts=parts))
    return [
        run_pb2.RunEvent(sequence=1, started=run_pb2.RunStarted(run_id=run_id)),
        *(run_pb2.RunEvent(sequence=number, delta=delta) for number, delta in enumerate(deltas, 2)),
        run_pb2.RunEvent(sequence=last, finished=run_pb2.RunFinished(run=run)),
    ]


class ScriptedServer(generation_service_pb2_grpc.GenerationServiceServicer):
    """Serves one log to every stream, as an async context manager.

    Attributes:
        log: What streams send, in this order, whatever sequences it says; those at or before a cursor are left out.
        refusals: Answered to the next streams, one each.
        requests: Every Generate and WatchRun, in order.
        cancels: Every Cancel, in order.
        unary_requests: Every other call.
        metadata: What every stream came with.
        peers: Where every stream and Cancel came from.
        left: How many streams their client left before the end.
        outcome: What Cancel answers.
        runs: What GetRun answers, one each; the last one again and again.
    """

    def __init__(self, log: list[run_pb2.RunEvent] | None = None) -> None:
        self.log = log or []
        self.refusals: deque[Refusal] = deque()
        self.requests: list[generation_service_pb2.GenerateRequest | generation_service_pb2.WatchRunRequest] = []
        self.cancels: list[generation_service_pb2.CancelRequest] = []
        self.unary_requests: list[Message] = []
        self.cancel_refusals: deque[Refusal] = deque()
        self.metadata: list[dict[str, str | bytes]] = []
        self.peers: list[str] = []
        self.left = 0
        self.outcome = generation_service_pb2.CancelResponse.OUTCOME_CANCELLED
        self.runs: deque[run_pb2.Run] = deque()
        self.pages: dict[str, generation_service_pb2.ListRunsResponse] = {}
        self._held_after: int | None = None
        self._cancel_is_held = False
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(self, self._server)
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.stop(None)
        await self._server.wait_for_termination()

    def hold_after(self, sequence: int | None) -> None:
        """Streams send nothing beyond this sequence until it is raised; None lets everything go."""
        self._held_after = sequence

    async def release(self) -> None:
        """Lets everything go."""
        await self.set_held_after(None)

    async def set_held_after(self, sequence: int | None) -> None:
        """As `hold_after`, and wakes the streams."""
        async with self._changed:
            self._held_after = sequence
            self._changed.notify_all()

    async def hold_cancels(self, *, are_held: bool) -> None:
        """Whether Cancel is answered."""
        async with self._changed:
            self._cancel_is_held = are_held
            self._changed.notify_all()

    async def until_left(self, count: int = 1) -> None:
        """Waits until so many streams were left by their client."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.left >= count)

    async def until_cancelled(self, count: int = 1) -> None:
        """Waits until so many Cancels came."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.cancels) >= count)

    async def until_requested(self, count: int = 1) -> None:
        """Waits until so many streams were asked for."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= count)

    async def Generate(
        self, request: generation_service_pb2.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[run_pb2.RunEvent]:
        async for event in self._follow(request, 0, context):
            yield event

    async def WatchRun(
        self, request: generation_service_pb2.WatchRunRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[run_pb2.RunEvent]:
        async for event in self._follow(request, request.after_sequence, context):
            yield event

    async def Cancel(
        self, request: generation_service_pb2.CancelRequest, context: grpc.aio.ServicerContext
    ) -> generation_service_pb2.CancelResponse:
        self.peers.append(context.peer())
        async with self._changed:
            self.cancels.append(request)
            self._changed.notify_all()
            await self._changed.wait_for(lambda: not self._cancel_is_held)
        if self.cancel_refusals:
            await _abort(context, self.cancel_refusals.popleft())
        run = run_pb2.Run(run_id=request.run_id, state=run_pb2.RUN_STATE_CANCELLED, message=self._partial())
        return generation_service_pb2.CancelResponse(outcome=self.outcome, run=run)

    async def GetRun(
        self, request: generation_service_pb2.GetRunRequest, context: grpc.aio.ServicerContext
    ) -> run_pb2.Run:
        self.unary_requests.append(request)
        if not self.runs:
            await _abort(context, Refusal(grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND", "no such run"))
        return self.runs.popleft() if len(self.runs) > 1 else self.runs[0]

    async def ListRuns(
        self, request: generation_service_pb2.ListRunsRequest, context: grpc.aio.ServicerContext
    ) -> generation_service_pb2.ListRunsResponse:
        self.unary_requests.append(request)
        return self.pages[request.page_token]

    async def DeleteRun(
        self, request: generation_service_pb2.DeleteRunRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        self.unary_requests.append(request)
        return empty_pb2.Empty()

    async def ListModels(
        self, request: generation_service_pb2.ListModelsRequest, context: grpc.aio.ServicerContext
    ) -> generation_service_pb2.ListModelsResponse:
        return generation_service_pb2.ListModelsResponse(models=[generation_service_pb2.Model(name="a/b")])

    async def _follow(
        self,
        request: generation_service_pb2.GenerateRequest | generation_service_pb2.WatchRunRequest,
        after: int,
        context: grpc.aio.ServicerContext,
    ) -> AsyncIterator[run_pb2.RunEvent]:
        self.peers.append(context.peer())
        self.metadata.append(dict(context.invocation_metadata() or ()))
        async with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        if self.refusals:
            await _abort(context, self.refusals.popleft())
        is_over = False
        try:
            for event in self.log:
                if event.sequence > after:
                    await self._may_send(event)
                    yield event
            is_over = True
        finally:
            if not is_over:
                self.left += 1
                asyncio.get_running_loop().create_task(self._notify())  # ends at once

    async def _may_send(self, event: run_pb2.RunEvent) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._held_after is None or event.sequence <= self._held_after)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _partial(self) -> run_pb2.Message:
        return self.log[-1].finished.run.message if self.log else run_pb2.Message()


async def _abort(context: grpc.aio.ServicerContext, refusal: Refusal) -> None:
    status = status_pb2.Status(code=refusal.code.value[0], message=refusal.message)
    if refusal.reason:
        info = error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=refusal.metadata)
        for detail in (info, *refusal.details):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    await context.abort(refusal.code, refusal.message)
