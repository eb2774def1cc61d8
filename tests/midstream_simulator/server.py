"""The simulator: it listens, finds the script for each request, and remembers the requests."""

import asyncio
import json
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

import msgspec

from midstream_simulator.admin import Admin, BadAdminRequest
from midstream_simulator.chat import ChatDialect
from midstream_simulator.cohere import CohereDialect
from midstream_simulator.connection import Connection
from midstream_simulator.dialect import Dialect, JsonObject
from midstream_simulator.gemini import GeminiDialect
from midstream_simulator.http_request import HttpRequest, encode_head
from midstream_simulator.messages import MessagesDialect
from midstream_simulator.ollama import OllamaDialect
from midstream_simulator.player import Player
from midstream_simulator.recording import RecordedRequest
from midstream_simulator.responses import ResponsesDialect
from midstream_simulator.shapes import EXAMPLES, script_for
from midstream_simulator.steps import Respond, Script, parse_script

_DIALECTS: Sequence[Dialect] = (
    ChatDialect(),
    ResponsesDialect(),
    MessagesDialect(),
    GeminiDialect(),
    OllamaDialect(),
    CohereDialect(),
)


@dataclass(slots=True)
class _Rule:
    model: str | None
    contains: str | None
    scripts: list[Script]

    def matches(self, model: str, body: bytes) -> bool:
        return self.model in (None, model) and (self.contains is None or self.contains.encode() in body)

    def next_script(self) -> Script:
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


class Simulator:
    """A model API on a free port, as an async context manager.

    Leaving it closes every connection, and raises what went wrong inside (a script that cannot be played).

    Args:
        port: 0 picks a free one.
        ssl_context: speak TLS.
        send_buffer_bytes: the kernel's send buffer per connection, so that a peer that does not read is felt soon.
        keep: how many requests are remembered.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        send_buffer_bytes: int | None = None,
        keep: int = 10_000,
    ) -> None:
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._send_buffer_bytes = send_buffer_bytes
        self._keep = keep
        self._rules: list[_Rule] = []
        self._requests: dict[int, RecordedRequest] = {}
        self._number = 0
        self._arrival = asyncio.Event()
        self.cancelled_responses: list[str] = []
        """The ids of the answers that a call was made to stop: POST /v1/responses/{id}/cancel."""
        self._connections: set[Connection] = set()
        self._failures: list[BaseException] = []
        self._admin = Admin(self)

    async def __aenter__(self) -> Self:
        """Listens."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._serve, self._connections, self._failures, self._send_buffer_bytes),
            self._host,
            self._port,
            ssl=self._ssl_context,
            backlog=4096,
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *exc_info: object) -> None:
        """Closes everything."""
        self._server.close()
        for connection in list(self._connections):
            await connection.stop()
        await self._server.wait_closed()
        if self._failures and kind is None:
            raise self._failures[0]

    @property
    def address(self) -> str:
        """`HOST:PORT`."""
        return f"{self._host}:{self._port}"

    @property
    def origin(self) -> str:
        """`http://HOST:PORT`."""
        return f"http{'s' if self._ssl_context else ''}://{self.address}"

    @property
    def base_url(self) -> str:
        """What precedes `/chat/completions`."""
        return f"{self.origin}/v1"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Those to a dialect's path, in order of arrival."""
        return list(self._requests.values())

    @property
    def open_connections(self) -> int:
        """How many clients are connected."""
        return sum(not connection.closed for connection in self._connections)

    def play(self, model: str | None, *scripts: Script, contains: str | None = None) -> None:
        """Gives a model scripts: one per request, the last for all that follow. The latest call that fits counts.

        Args:
            model: the model's name; None fits all.
            scripts: in order.
            contains: only for requests whose body has this text in it.

        Raises:
            ValueError: a step is not one.
        """
        if not scripts:
            raise ValueError("a script is needed")
        checked = [parse_script(msgspec.to_builtins(list(script))) for script in scripts]
        self._rules.insert(0, _Rule(model, contains, list(checked)))

    async def received(self, number: int = 1) -> RecordedRequest:
        """Waits for the request with this number (from 1)."""
        while number > self._number:
            await self._arrival.wait()
        return self._requests[number]

    def forget(self) -> None:
        """Forgets all scripts and requests; the next request is the first again."""
        self._number = 0
        self._rules.clear()
        self._requests.clear()
        self.cancelled_responses.clear()

    async def _serve(self, connection: Connection, request: HttpRequest) -> None:
        try:
            body = json.loads(request.body) if request.body else {}
        except ValueError:
            return await self._answer(connection, request, 400, {"error": {"message": "the body is not JSON"}})
        if request.path.startswith("/admin/"):
            return await self._serve_admin(connection, request, body)
        if request.method == "GET" and request.path == "/v1/models":
            return await self._answer(connection, request, 200, self._models())
        if request.method == "POST" and (found := re.fullmatch(r"/v1/responses/([^/]+)/cancel", request.path)):
            self.cancelled_responses.append(unquote(found[1]))
            return await self._answer(connection, request, 200, {"id": found[1], "status": "cancelled"})
        for dialect in _DIALECTS if request.method == "POST" and isinstance(body, dict) else ():
            if (model := dialect.model(request.path, body)) is not None:
                return await self._play(connection, request, body, dialect, model)
        return await self._answer(connection, request, 404, {"error": {"message": f"no such path: {request.path}"}})

    async def _play(
        self, connection: Connection, request: HttpRequest, body: JsonObject, dialect: Dialect, model: str
    ) -> None:
        recorded = self._record(request, body, model)
        connection.record(recorded)
        if (refusal := dialect.refuse(body)) is not None:
            script: Script = [Respond(400, dialect.error_body(400, refusal))]
        else:
            script = self._script(request, body, dialect, model)
        await Player(connection, recorded, dialect, keep_alive=request.keeps_alive).play(script)

    def _script(self, request: HttpRequest, body: JsonObject, dialect: Dialect, model: str) -> Script:
        for rule in self._rules:
            if rule.matches(model, request.body):
                return rule.next_script()
        shape = script_for(model, dialect, body)
        return shape or [Respond(404, dialect.error_body(404, f"The model `{model}` does not exist"))]

    def _record(self, request: HttpRequest, body: JsonObject, model: str) -> RecordedRequest:
        self._number += 1
        recorded = self._requests[self._number] = RecordedRequest(self._number, request, body, model)
        if len(self._requests) > self._keep:
            del self._requests[next(iter(self._requests))]
        self._arrival.set()
        self._arrival = asyncio.Event()
        return recorded

    def _models(self) -> dict[str, Any]:
        names = dict.fromkeys([*(rule.model for rule in self._rules if rule.model), *EXAMPLES])
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "simulator"} for name in names]
        return {"object": "list", "data": models}

    async def _serve_admin(self, connection: Connection, request: HttpRequest, body: object) -> None:
        try:
            answer = await self._admin.answer(request, body)
        except BadAdminRequest as error:
            return await self._answer(connection, request, error.status, {"error": {"message": str(error)}})
        return await self._answer(connection, request, 200, answer)

    async def _answer(self, connection: Connection, request: HttpRequest, status: int, body: object) -> None:
        data = msgspec.json.encode(body)
        headers = {"content-type": "application/json", "content-length": str(len(data))}
        if not request.keeps_alive:
            headers["connection"] = "close"
        await connection.write(encode_head(status, headers) + data)
        if not request.keeps_alive:
            await connection.finish()
