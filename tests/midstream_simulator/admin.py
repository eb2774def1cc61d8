"""The admin API: what a test does with methods, over HTTP.

============================================ =========================================================================
`POST /admin/scripts`                        `{"model": …, "contains": …, "script": […]}`, or `"scripts": [[…], …]`: one
                                             per request, the last for all that follow
`GET /admin/requests[?count=N][&times=1]`    all requests; with `count` once N have come; with `times` each token's time
`GET /admin/requests/N[?wait=W][&times=1]`   one, numbered from 1, once it has come; W is `over`, `closed`, or
                                             `gate:NAME`: answered once that is so
`POST /admin/requests/N/release`             `{"gate": NAME}`
`POST /admin/reset`                          forgets scripts and requests
============================================ =========================================================================

A wait has no limit of its own: the caller hangs up.
"""

import re
from typing import TYPE_CHECKING, Any

import msgspec

from midstream_simulator.http_request import HttpRequest
from midstream_simulator.recording import GateNotReached, RecordedRequest
from midstream_simulator.steps import Step

if TYPE_CHECKING:
    from midstream_simulator.server import Simulator


class BadAdminRequest(Exception):
    """With the status to answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class _Scripts(msgspec.Struct, forbid_unknown_fields=True):
    model: str | None = None
    contains: str | None = None
    script: list[Step] | None = None
    scripts: list[list[Step]] = []


class _Release(msgspec.Struct, forbid_unknown_fields=True):
    gate: str


class Admin:
    """Answers the admin API for a simulator."""

    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator

    async def answer(self, request: HttpRequest, body: object) -> Any:
        """The JSON value to answer with.

        Raises:
            BadAdminRequest: there is no such thing.
        """
        try:
            return await self._route(request, body)
        except (msgspec.ValidationError, ValueError) as error:
            raise BadAdminRequest(str(error)) from error

    async def _route(self, request: HttpRequest, body: object) -> Any:
        times = request.query.get("times") == "1"
        match request.method, request.path.split("/")[2:]:
            case "POST", ["scripts"]:
                return self._add_scripts(msgspec.convert(body, _Scripts))
            case "POST", ["reset"]:
                return self._simulator.forget()
            case "GET", ["requests"]:
                if count := int(request.query.get("count", "0")):
                    await self._find(count)
                return [each.as_json(times=times) for each in self._simulator.requests]
            case "GET", ["requests", number]:
                recorded = await self._find(int(number))
                await _wait(recorded, request.query.get("wait", ""))
                return recorded.as_json(times=times)
            case "POST", ["requests", number, "release"]:
                (await self._find(int(number))).release(msgspec.convert(body, _Release).gate)
                return None
            case _:
                raise BadAdminRequest(f"no such thing: {request.method} {request.path}", status=404)

    def _add_scripts(self, given: _Scripts) -> None:
        scripts = [*given.scripts, *([given.script] if given.script is not None else [])]
        self._simulator.play(given.model, *scripts, contains=given.contains)

    async def _find(self, number: int) -> RecordedRequest:
        try:
            return await self._simulator.received(number)
        except KeyError as error:
            raise BadAdminRequest(f"no request {number}", status=404) from error


async def _wait(recorded: RecordedRequest, until: str) -> None:
    try:
        if until == "over":
            await recorded.over()
        elif until == "closed":
            await recorded.closed()
        elif gate := re.fullmatch(r"gate:(.+)", until):
            await recorded.reached(gate[1])
        elif until:
            raise ValueError(f"wait is over, closed or gate:NAME, not {until}")
    except GateNotReached as error:
        raise BadAdminRequest(str(error), status=409) from error
