"""The token of a page of runs: the key of the last run before it, bound to the filter of the list."""

import base64
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import Instant, RunState

_HEAD = struct.Struct(">B12sq")
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs a list shows. None and empty: all."""

    state: RunState | None = None
    conversation_id: str = ""
    parent_run_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def encode_page_token(key: tuple[Instant, str], run_filter: RunFilter) -> str:
    """The token of the page after the run with this (create_time, run_id). URL-safe."""
    create_time, run_id = key
    data = _HEAD.pack(_VERSION, _digest(key, run_filter), create_time) + run_id.encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode_page_token(token: str, run_filter: RunFilter) -> tuple[Instant, str]:
    """The (create_time, run_id) in a token.

    Raises:
        InvalidRequest: it was not made here, or it was made for another filter.
    """
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars="-_", validate=True)
        version, digest, create_time = _HEAD.unpack_from(data)
        key = (create_time, data[_HEAD.size :].decode())
    except (ValueError, struct.error):
        raise _refused() from None
    if version != _VERSION or digest != _digest(key, run_filter):
        raise _refused()
    return key


def _digest(key: tuple[Instant, str], run_filter: RunFilter) -> bytes:
    facts = [
        *key,
        run_filter.state,
        run_filter.conversation_id,
        run_filter.parent_run_id,
        sorted(run_filter.labels.items()),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).digest()[:12]


def _refused() -> InvalidRequest:
    return InvalidRequest(FieldViolation("page_token", "is not a token of a list with this filter"))
