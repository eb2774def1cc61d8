"""Instants and durations: integers of nanoseconds and floats of seconds, as the well-known types have them."""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from midstream_server.model import Instant

_NANOSECONDS = 1_000_000_000


def put_time(target: Timestamp, instant: Instant) -> None:
    """Sets a timestamp; it is present afterwards, the epoch itself too."""
    target.seconds, target.nanos = divmod(instant, _NANOSECONDS)


def get_time(source: Timestamp) -> Instant:
    """A timestamp's instant."""
    return source.seconds * _NANOSECONDS + source.nanos


def put_seconds(target: Duration, seconds: float) -> None:
    """Sets a duration, rounded to nanoseconds; it is present afterwards, 0 too."""
    whole = int(seconds)
    # Apart, because a float cannot hold 30 days to the nanosecond.
    nanoseconds = whole * _NANOSECONDS + round((seconds - whole) * _NANOSECONDS)
    sign = -1 if nanoseconds < 0 else 1
    whole, fraction = divmod(abs(nanoseconds), _NANOSECONDS)
    target.seconds, target.nanos = sign * whole, sign * fraction


def get_seconds(source: Duration) -> float:
    """A duration's seconds."""
    return (source.seconds * _NANOSECONDS + source.nanos) / _NANOSECONDS
