"""Channels: one for streams, and one for control.

A stream that waits for its turn on a busy connection must not keep a Cancel waiting behind it, so control calls have a
connection of their own: their own subchannel pool, since channels to one address share connections otherwise.
"""

import json
from collections.abc import Sequence
from typing import TypeAlias

import grpc

from midstream.v1 import generation_service_pb2_grpc

Options: TypeAlias = Sequence[tuple[str, int | str]]
Metadata: TypeAlias = tuple[tuple[str, str], ...]

# A server sends something at least every 15 s on a stream, so these pings never look like too many.
_STREAM_KEEPALIVE_SECONDS = 10
_CONTROL_KEEPALIVE_SECONDS = 30

# Calls that may be repeated, and are, while the server does not answer them at all.
_REPEATABLE = ("Cancel", "GetRun", "ListRuns", "ListModels")
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def stream_options() -> Options:
    """Of the channel for streams."""
    return _options(_STREAM_KEEPALIVE_SECONDS)


def control_options() -> Options:
    """Of the channel for everything else."""
    names = [{"service": "midstream.v1.GenerationService", "method": each} for each in _REPEATABLE]
    service_config = {"methodConfig": [{"name": names, "retryPolicy": _RETRY_POLICY}]}
    return (*_options(_CONTROL_KEEPALIVE_SECONDS), ("grpc.service_config", json.dumps(service_config)))


def metadata_of(api_key: str | None) -> Metadata:
    """What every call carries."""
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


class SyncTransport:
    """Both channels for threads. Nothing is connected before the first call."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None, metadata: Metadata) -> None:
        self._streams = _sync_channel(target, credentials, stream_options())
        self._control = _sync_channel(target, credentials, control_options())
        self.streams = generation_service_pb2_grpc.GenerationServiceStub(self._streams)
        self.control = generation_service_pb2_grpc.GenerationServiceStub(self._control)
        self.metadata = metadata
        self.is_closed = False

    def close(self) -> None:
        """Ends every call. Safe to call twice."""
        self.is_closed = True
        self._streams.close()
        self._control.close()


class AsyncTransport:
    """Both channels for an event loop. Must be made on it; nothing is connected before the first call."""

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None, metadata: Metadata) -> None:
        self._streams = _async_channel(target, credentials, stream_options())
        self._control = _async_channel(target, credentials, control_options())
        self.streams = generation_service_pb2_grpc.GenerationServiceStub(self._streams)
        self.control = generation_service_pb2_grpc.GenerationServiceStub(self._control)
        self.metadata = metadata
        self.is_closed = False

    def warm(self) -> None:
        """Connects the control channel ahead of the first Cancel."""
        self._control.get_state(try_to_connect=True)

    async def close(self) -> None:
        """Ends every call. Safe to call twice."""
        self.is_closed = True
        await self._streams.close()
        await self._control.close()


def _options(keepalive_seconds: int) -> Options:
    return (
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", keepalive_seconds * 1000),
        ("grpc.keepalive_timeout_ms", 5_000),
        ("grpc.http2.ping_timeout_ms", 5_000),
        ("grpc.http2.max_pings_without_data", 0),
        # How fast a server that comes back is found again; the first of them also bounds each attempt to connect.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
    )


def _sync_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def _async_channel(target: str, credentials: grpc.ChannelCredentials | None, options: Options) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options)
    return grpc.aio.secure_channel(target, credentials, options)
