"""grpc.health.v1."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typing_extensions import override

_Answer = health_pb2.HealthCheckResponse
SERVICE_NAME = health.SERVICE_NAME


class HealthServicer(health_pb2_grpc.HealthServicer):
    """Says which services should be sent anything. Watches end when the server stops, or they would use up its grace.

    The server itself ("") is SERVING for as long as it answers: that is liveness.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": _Answer.SERVING}
        self._changed = asyncio.Event()
        self._is_closed = False

    def set_serving(self, service: str, is_serving: bool) -> None:
        """Tells everybody who asks or watches."""
        self._statuses[service] = _Answer.SERVING if is_serving else _Answer.NOT_SERVING
        self._wake()

    def close(self) -> None:
        """Ends the watches, each with the last status. Safe to repeat."""
        self._is_closed = True
        self._wake()

    @override
    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> _Answer:
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _Answer(status=status)

    @override
    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        told: int | None = None
        while True:
            changed, is_closed = self._changed, self._is_closed
            status = self._statuses.get(request.service, _Answer.SERVICE_UNKNOWN)
            if status != told:
                await context.write(_Answer(status=status))
                told = status
            if is_closed:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
