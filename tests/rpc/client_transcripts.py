"""Follows a run with either client, so that a test holds for both."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from midstream.v1 import run_pb2
from midstream_client import AsyncClient, Client, Delta


class Transcript(NamedTuple):
    """All that a caller sees of a run."""

    deltas: list[Delta]
    text: str
    message: run_pb2.Message
    final: run_pb2.Run
    last_sequence: int


Follow = Callable[..., Awaitable[Transcript]]


async def follow_async(target: str, method: str = "generate", *arguments: Any, **options: Any) -> Transcript:
    """With AsyncClient. Arguments default to a prompt."""
    async with AsyncClient(target) as client, getattr(client, method)(*(arguments or ("a/b", "hi")), **options) as run:
        deltas = [delta async for delta in run]
        return Transcript(deltas, run.text, run.message, await run.result(), run.last_sequence)


async def follow_sync(target: str, method: str = "generate", *arguments: Any, **options: Any) -> Transcript:
    """With Client, in a thread of its own."""

    def follow() -> Transcript:
        with Client(target) as client, getattr(client, method)(*(arguments or ("a/b", "hi")), **options) as run:
            return Transcript(list(run), run.text, run.message, run.result(), run.last_sequence)

    return await asyncio.to_thread(follow)
