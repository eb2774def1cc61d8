"""`midstream`, with bugs in it that show what they were working on: run by `test_canary` as a process of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

from midstream_server.__main__ import main
from midstream_server.engine.supervisor import Supervisor
from midstream_server.upstreams.openai_chat import OpenAIChatDialect


class _BrokenParser:
    """Fails on what a test wants it to fail on, with all that it knows in the exception's words."""

    def __init__(self, parser: Any, profile: Any) -> None:
        self._parser = parser
        self._profile = profile

    def feed(self, data: bytes) -> Any:
        if b"break the pump" in data:
            raise ValueError(f"cannot read {data!r} with {self._profile!r}") from KeyError(data.decode())
        if b"break the loop" in data:
            asyncio.get_running_loop().call_soon(_raise, data)
        return self._parser.feed(data)

    def close(self) -> Any:
        return self._parser.close()


def _raise(data: bytes) -> None:
    raise ValueError(f"cannot go on with {data!r}")


def _break_parser(make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, profile: _BrokenParser(make(self, profile), profile)


def _break_start(start: Callable[..., Any]) -> Callable[..., Any]:
    async def broken(self: Supervisor, spec: Any, *arguments: Any) -> Any:
        if spec.run_id == "break-the-method":
            raise ExceptionGroup(f"{spec!r}", [RuntimeError(repr(self.__dict__))])
        return await start(self, spec, *arguments)

    return broken


if __name__ == "__main__":
    setattr(OpenAIChatDialect, "parser", _break_parser(OpenAIChatDialect.parser))  # noqa: B010
    setattr(Supervisor, "start", _break_start(Supervisor.start))  # noqa: B010
    main()
