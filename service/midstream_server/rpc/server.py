"""The gRPC server: its options, its services, and the one wrapper that turns errors into statuses."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_channelz.v1 import channelz, channelz_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from midstream.v1 import generation_service_pb2 as service_wire
from midstream_server.errors import InvalidSettings, MidstreamError
from midstream_server.rpc import health
from midstream_server.rpc.servicer import GenerationServicer, PeerGone, StreamContext
from midstream_server.rpc.status import to_grpc_status

SERVICE = service_wire.DESCRIPTOR.services_by_name["GenerationService"].full_name
CHANNELZ = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"].full_name
MAX_RECEIVE_BYTES = 8 * 1024 * 1024
"""Above our own limit of 4 MiB, so that a request that is too large gets our error, which says so."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    # Admission is ours: a stream limit would make Cancel wait behind the streams that it is to stop.
    ("grpc.max_concurrent_streams", 1_000_000),
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 200_000),
    # A frozen peer is noticed only with all three.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
)

_log = structlog.get_logger(__name__)

UnaryMethod = Callable[[bytes, StreamContext], Awaitable[bytes]]
StreamMethod = Callable[[bytes, StreamContext], Awaitable[None]]


class RpcServer:
    """Listens, serves, and says by grpc.health.v1 whether it should be sent anything."""

    def __init__(
        self, servicer: GenerationServicer, new_request_id: Callable[[], str], *, share_port: bool = False
    ) -> None:
        self._server = grpc.aio.server(options=[*OPTIONS, ("grpc.so_reuseport", int(share_port))])
        self._health = health.HealthServicer()
        handlers = _handlers(servicer, new_request_id)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        channelz.add_channelz_servicer(self._server)
        names = (SERVICE, health.SERVICE_NAME, CHANNELZ, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listens, with TLS if there are credentials; the port, which matters if 0 was asked for.

        Raises:
            InvalidSettings: the address cannot be used.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(address)
            else:
                bound = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InvalidSettings(f"listen: cannot listen on {address}; is another process using the port?") from error
        await self._server.start()
        self.set_serving(True)
        return bound

    def set_serving(self, is_serving: bool) -> None:
        """Tells health clients."""
        self._health.set_serving(SERVICE, is_serving)

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new calls, ends the health watches at once, and all calls that are still open after the grace."""
        self._health.close()
        await self._server.stop(grace_seconds)


def _handlers(
    servicer: GenerationServicer, new_request_id: Callable[[], str]
) -> dict[str, "grpc.RpcMethodHandler[Any, Any]"]:
    """Handlers that take and give bytes: an event is encoded once, long before it is sent."""
    streams: dict[str, StreamMethod] = {"Generate": servicer.generate, "WatchRun": servicer.watch_run}
    unaries: dict[str, UnaryMethod] = {
        "Cancel": servicer.cancel,
        "GetRun": servicer.get_run,
        "ListRuns": servicer.list_runs,
        "DeleteRun": servicer.delete_run,
        "ListModels": servicer.list_models,
    }

    def guarded(name: str, method: StreamMethod | UnaryMethod) -> Callable[..., Awaitable[Any]]:
        return _guarded(method, name, new_request_id)

    return {name: grpc.unary_stream_rpc_method_handler(guarded(name, method)) for name, method in streams.items()} | {
        name: grpc.unary_unary_rpc_method_handler(guarded(name, method)) for name, method in unaries.items()
    }


def _guarded(
    method: StreamMethod | UnaryMethod, name: str, new_request_id: Callable[[], str]
) -> Callable[..., Awaitable[Any]]:
    """The method with its errors as statuses. What the peer may know of an unexpected one is a request id."""

    async def guarded(request: bytes, context: Any) -> Any:
        try:
            return await method(request, context)
        except PeerGone:
            _log.debug("rpc.peer_gone", method=name)
            # Not OK: should the peer be there after all, it must not take what it has for the whole.
            await context.abort(grpc.StatusCode.UNAVAILABLE)
        except Exception as error:
            request_id = new_request_id()
            if not isinstance(error, MidstreamError):
                _log.exception("rpc.broken", method=name, request_id=request_id)
            await context.abort_with_status(to_grpc_status(error, request_id))

    return guarded
