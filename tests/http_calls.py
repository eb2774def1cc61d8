"""Calls of an `HttpUpstream` against a `RawServer`, for the tests of the HTTP policy."""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from midstream_server.errors import RunFailure
from midstream_server.model import Message, Part, Prompt, Role, Text
from midstream_server.upstreams.base import CallOptions, UpstreamEvent
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_call import HttpCall
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.openai_chat import OpenAIChatDialect
from raw_server import PATIENCE_SECONDS, RawServer
from stream_folding import Folded, fold

PROMPT = Prompt(messages=(Message(role=Role.USER, parts=(Part(content=Text(text="Hello")),)),))
KEY = "sk-secret-0123456789"


@dataclass
class Reading:
    """A call, and what its iteration has given so far."""

    call: HttpCall
    events: list[UpstreamEvent] = field(default_factory=list)
    wire_bytes: int = 0
    failure: RunFailure | None = None
    progressed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def folded(self) -> Folded:
        """What the events say."""
        return fold(self.events)

    async def run(self) -> None:
        """Reads to the end, and leaves the call as the engine does."""
        async with self.call:
            try:
                async for batch in self.call.batches():
                    self.events += batch.events
                    self.wire_bytes += batch.wire_bytes
                    self.progressed.set()
            except RunFailure as failure:
                self.failure = failure

    async def text(self, expected: str) -> None:
        """Waits until this text has come."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.folded.text() != expected:
                self.progressed.clear()
                await self.progressed.wait()

    async def ended(self) -> None:
        """Waits for the end of the iteration; it may not leave a cancel behind."""
        assert self.task is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self.task
        assert self.task.cancelling() == 0

    def only_failure(self) -> RunFailure:
        """The failure that it must have raised."""
        assert self.failure is not None
        return self.failure


class Caller:
    """Makes calls of one upstream."""

    def __init__(self, upstream: HttpUpstream) -> None:
        self.upstream = upstream

    def call(self, options: CallOptions | None = None) -> HttpCall:
        """A call that has not begun."""
        return self.upstream.call("m", PROMPT, options or CallOptions())

    def start(self, options: CallOptions | None = None) -> Reading:
        """A call that is being read."""
        reading = Reading(self.call(options))
        reading.task = asyncio.create_task(reading.run(), name="reading")
        return reading


@functools.cache
def _trust() -> ssl.SSLContext:
    """Made once: it is the slowest part of a client."""
    return ssl.create_default_context()


@asynccontextmanager
async def calling(server: RawServer, client: HttpClient | None = None, **settings: Any) -> AsyncIterator[Caller]:
    """An upstream at the server. At the end no task is left but the test's."""
    async with AsyncExitStack() as stack:
        if client is None:
            client = HttpClient(_trust())
            stack.push_async_callback(client.aclose)
        config = HttpUpstreamConfig(name="test", base_url=server.url, api_key=KEY, retry_initial_seconds=0.001)
        yield Caller(HttpUpstream(replace(config, **settings), OpenAIChatDialect(), client))
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left


async def passed(seconds: float) -> None:
    """Waits for the loop's clock, where a test is about a clock."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, event.set)
    await event.wait()
