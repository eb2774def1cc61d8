"""The runner: a configuration on standard input, a line per scenario on standard output."""

import asyncio
import inspect
import json
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
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
            detail = await outcome(name, stage, limits.get(name, 30.0))
            milliseconds = round((time.monotonic() - started) * 1000)
            result = {"scenario": name, "ok": not detail, "detail": detail, "milliseconds": milliseconds}
            print(json.dumps(result), flush=True)


async def outcome(name: str, stage: Stage, seconds: float) -> str:
    """What went wrong; empty if nothing did."""
    case = _cases().get(name)
    if case is None:
        return "there is no such scenario here"
    try:
        async with asyncio.timeout(seconds):
            await case(stage)
    except TimeoutError as error:
        return f"not over after {seconds:g} s: it was at {_place(error.__cause__ or error)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _place(error: BaseException) -> str:
    """Where in this folder it stood, from the outermost line to the innermost."""
    frames = traceback.extract_tb(error.__traceback__)
    here = [each for each in frames if Path(each.filename).parent == Path(__file__).parent]
    return ", ".join(f"{Path(each.filename).name}:{each.lineno} {each.line}" for each in here[1:])


def _cases() -> Mapping[str, Case]:
    return {
        name: case
        for module in (cases, stops, losses)
        for name, case in inspect.getmembers(module, inspect.iscoroutinefunction)
        if case.__module__ == module.__name__
    }


if __name__ == "__main__":
    asyncio.run(_run(json.load(sys.stdin)))
