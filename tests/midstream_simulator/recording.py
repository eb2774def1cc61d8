"""What the simulator remembers of a request, and how a test waits for it and lets it go on."""

import asyncio
import time
from array import array
from typing import Any

from midstream_simulator.dialect import JsonObject
from midstream_simulator.http_request import HttpRequest


class GateNotReached(AssertionError):
    """The request ended without coming to the gate."""


class _GateState:
    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.released = asyncio.Event()
        self.was_reached = False


class RecordedRequest:
    """One request and its answer. Times are CLOCK_MONOTONIC in ns, None until it happens.

    `closed_by` says who closed the connection: `client`, or `server` where the script or the HTTP headers wanted it. A
    connection that served several requests closes for all of them. `tokens_sent` and `bytes_sent` stand still once it
    closed; bytes are those of the whole answer on the wire, as far as the kernel had taken them (less at
    most 64 KiB of a write that it had not taken whole).
    """

    def __init__(self, number: int, request: HttpRequest, body: JsonObject, model: str) -> None:
        self.number = number
        """From 1, in the order of arrival."""
        self.path = request.path
        self.headers = request.headers
        self.body = body
        self.model = model
        self.received_ns = time.monotonic_ns()
        self.headers_sent_ns: int | None = None
        self.first_token_ns: int | None = None
        self.finished_ns: int | None = None
        """When the answer was whole."""
        self.closed_ns: int | None = None
        self.closed_by: str | None = None
        self.tokens_sent = 0
        self.bytes_sent = 0
        self.pieces: list[str] = []
        self.token_times_ns = array("Q")
        """One per token; a write of several has one time."""
        self._gates: dict[str, _GateState] = {}
        self._over = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def text_sent(self) -> str:
        """The text of choice 0, refusals included, stamps not."""
        return "".join(self.pieces)

    @property
    def interrupted(self) -> bool:
        """Whether the connection closed before the answer was whole."""
        return self.closed_ns is not None and self.finished_ns is None

    async def reached(self, gate: str) -> None:
        """Waits until the script parks at the gate, or has passed it.

        Raises:
            GateNotReached: the request ended before.
        """
        state = self._gate(gate)
        await state.reached.wait()
        if not state.was_reached:
            raise GateNotReached(f"request {self.number} ({self.model}) ended before gate {gate!r}")

    def release(self, gate: str) -> None:
        """Lets the script pass the gate, also if it has not come to it yet."""
        self._gate(gate).released.set()

    async def closed(self) -> int:
        """Waits until the connection is closed; when that was."""
        await self._closed.wait()
        assert self.closed_ns is not None
        return self.closed_ns

    async def over(self) -> None:
        """Waits until nothing more is sent: the answer is whole, or the connection closed."""
        await self._over.wait()

    def as_json(self, *, times: bool = False) -> dict[str, Any]:
        """Everything, for the admin API."""
        plain = ("number", "path", "model", "received_ns", "headers_sent_ns", "first_token_ns", "finished_ns")
        rest = ("closed_ns", "closed_by", "interrupted", "tokens_sent", "bytes_sent", "text_sent", "body")
        found: dict[str, Any] = {name: getattr(self, name) for name in plain + rest}
        found["headers"] = dict(self.headers)
        found["gates"] = [name for name, state in self._gates.items() if state.was_reached]
        return found | ({"token_times_ns": list(self.token_times_ns)} if times else {})

    # --- For the server ----------------------------------------------------------------------------------------------

    async def pass_gate(self, name: str) -> None:
        """Parks at a gate."""
        state = self._gate(name)
        state.was_reached = True
        state.reached.set()
        await state.released.wait()

    def note_tokens(self, total: int) -> None:
        """So many tokens have been sent by now."""
        if total == self.tokens_sent:
            return
        now = time.monotonic_ns()
        self.first_token_ns = self.first_token_ns or now
        self.token_times_ns.extend([now] * (total - self.tokens_sent))
        self.tokens_sent = total

    def note_over(self) -> None:
        """Nothing more is sent."""
        self._over.set()
        for state in self._gates.values():
            state.reached.set()

    def note_closed(self, by: str) -> None:
        """The connection is closed; only the first time counts."""
        if self.closed_ns is None:
            self.closed_ns = time.monotonic_ns()
            self.closed_by = by
            self._closed.set()

    def _gate(self, name: str) -> _GateState:
        state = self._gates.get(name)
        if state is None:
            state = self._gates[name] = _GateState()
            if self._over.is_set():
                state.reached.set()
        return state
