"""The runner: a configuration on standard input, a line per scenario on standard output."""

import asyncio
import inspect
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp

from interop.python import cases, losses, stops
from interop.python.stage import Stage
from interop.scenarios import scenarios

Case = Callable[[Stage], Awaitable[None]]


async def _run(configuration: Mapping[str, Any]) -> None:
    limits = {each.name: each.seconds for each in scenarios()}
    async with aiohttp.ClientSession() as session:
        stage = Stage(configuration, session)
        for name in configuration["scenarios"]:
            started = time.monotonic()
            detail = await _outcome(name, stage, limits.get(name, 30.0))
            milliseconds = round((time.monotonic() - started) * 1000)
            result = {"scenario": name, "ok": not detail, "detail": detail, "milliseconds": milliseconds}
            print(json.dumps(result), flush=True)


async def _outcome(name: str, stage: Stage, seconds: float) -> str:
    """What went wrong; empty if nothing did."""
    case = _cases().get(name)
    if case is None:
        return "there is no such scenario here"
    try:
        async with asyncio.timeout(seconds):
            await case(stage)
    except TimeoutError:
        return f"not over after {seconds:.0f} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _cases() -> Mapping[str, Case]:
    return {
        name: case
        for module in (cases, stops, losses)
        for name, case in inspect.getmembers(module, inspect.iscoroutinefunction)
        if case.__module__ == module.__name__
    }


if __name__ == "__main__":
    asyncio.run(_run(json.load(sys.stdin)))
