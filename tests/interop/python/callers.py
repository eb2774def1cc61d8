"""What both kinds can do. Errors of calls are CallFailed, whatever the library makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from interop.python.transcript import Transcript
from midstream.v1 import generation_service_pb2 as service_wire
from midstream.v1 import run_pb2 as wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """How a server is reached."""

    target: str
    ca_file: str | None = None
    api_key: str | None = None


class Reader(Protocol):
    """A stream that is read on demand."""

    transcript: Transcript

    async def next(self) -> bool:
        """Reads on, across lost connections if the kind does that; False at a good end."""
        ...

    async def final(self) -> wire.Run:
        """Reads to the end; the run as it ended."""
        ...

    async def leave(self) -> None:
        """Leaves in the language's idiom. Safe after the end."""
        ...


class Caller(Protocol):
    """A client with connections of its own, as an async context manager."""

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    async def start(
        self, run_id: str, model: str, text: str, *, deadline: float | None = None, **fields: Any
    ) -> Reader:
        """Starts a run; `fields` are those of GenerateRequest, and `leaves` says that leaving is to stop the run."""
        ...

    async def watch(self, run_id: str, *, after: int | None = None, from_snapshot: bool = False) -> Reader:
        """Observes a run."""
        ...

    async def cancel(self, run_id: str, reason: str = "") -> service_wire.CancelResponse:
        """Stops a run."""
        ...

    async def get(self, run_id: str, *, wait: bool = False, replay: bool = False) -> wire.Run:
        """Returns a run."""
        ...

    async def delete(self, run_id: str) -> None:
        """Deletes a run."""
        ...

    async def list(self, labels: dict[str, str], *, state: int = 0, page_size: int = 0) -> Sequence[wire.Run]:
        """All pages."""
        ...

    async def models(self) -> service_wire.ListModelsResponse:
        """The models."""
        ...
