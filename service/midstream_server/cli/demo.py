"""`midstream demo`: a real model on this machine, streamed on one connection and stopped midway from another.

The server is a real one, on a free port with a store of its own; two clients call it over two connections. It runs in
this process only so that the engine's counters can be asked.
"""

import asyncio
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import uvloop

from midstream_client import AsyncClient, AsyncRunStream, CancelResult, MidstreamClientError
from midstream_server import app
from midstream_server.cli import terminal
from midstream_server.cli.demo_screen import Screen, Stop, examine
from midstream_server.cli.outcome import CommandFailed
from midstream_server.errors import MidstreamError
from midstream_server.logs import configure_logs
from midstream_server.settings import Settings, UpstreamSettings
from midstream_server.upstreams.local import LocalEngine

MODEL = "local/smollm2"
PROMPT = "Write a story that begins with: The lighthouse keeper found a bottle on the shore."
STOP_AFTER_DELTAS = 60
STOP_AFTER_SECONDS = 5.0
MAX_OUTPUT_TOKENS = 600
SETTLE_SECONDS = 10.0
POLL_SECONDS = 0.02


def demo(prompt: str | None) -> int:
    """Shows it; 0 only if everything held."""
    configure_logs("error", "console")
    with (
        tempfile.TemporaryDirectory(prefix="midstream-demo-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_demo(Path(folder), prompt or PROMPT))


async def _demo(folder: Path, prompt: str) -> int:
    started = time.monotonic()
    screen = Screen()
    settings = Settings(
        listen="127.0.0.1:0",
        store=f"sqlite:///{folder}/runs.db",
        upstreams={"local": UpstreamSettings(dialect="local")},
    )
    async with app.serving(settings) as application:
        engine = application.upstreams.local_engine
        assert engine is not None
        screen.fact("server", f"gRPC on {application.address}")
        await _start(engine)
        screen.fact("model", f"{MODEL} (SmolLM2-135M in llama.cpp, on this processor)")
        async with AsyncClient(application.address) as first, AsyncClient(application.address) as second:
            stop = await _stream_and_stop(screen, engine, first, second, prompt)
    promises = examine(stop)
    screen.verdict(promises, time.monotonic() - started)
    broken = [promise.words for promise in promises if not promise.held]
    if broken:
        raise CommandFailed(f"a promise was not kept: {'; '.join(broken)}")
    return terminal.OK


async def _start(engine: LocalEngine) -> None:
    try:
        await engine.start()
    except MidstreamError as error:
        raise CommandFailed(f"{error.message}; 'midstream doctor' says more") from error


async def _stream_and_stop(
    screen: Screen, engine: LocalEngine, first: AsyncClient, second: AsyncClient, prompt: str
) -> Stop:
    """Streams on the first connection, cancels from the second, and asks the second what was kept."""
    made_before = (await engine.metrics()).predicted_tokens
    options = {"max_output_tokens": MAX_OUTPUT_TOKENS, "temperature": 0.7, "seed": 1}
    try:
        async with first.generate(MODEL, prompt, parameters=options) as stream:
            screen.question(stream.run_id, prompt)
            run = _Streaming(screen, stream, second)
            async with asyncio.TaskGroup() as group:
                group.create_task(run.read(), name="connection A")
                group.create_task(run.stop_midway(), name="connection B")
            ended = await stream.result()
        stored = await second.get(stream.run_id)
    except* MidstreamClientError as errors:
        raise CommandFailed(str(errors.exceptions[0])) from errors
    made = await _tokens_made(engine) - made_before
    assert run.reply is not None
    return Stop(
        streamed="".join(run.pieces),
        deltas=len(run.pieces),
        reply=run.reply,
        reply_seconds=run.reply_seconds,
        ended=ended,
        stored=stored,
        tokens_made=made,
    )


class _Streaming:
    """The two connections of the demo at work."""

    def __init__(self, screen: Screen, stream: AsyncRunStream, second: AsyncClient) -> None:
        self._screen = screen
        self._stream = stream
        self._second = second
        self._begun = asyncio.Event()
        self._enough = asyncio.Event()
        self.pieces: list[str] = []
        self.reply: CancelResult | None = None
        self.reply_seconds = 0.0

    async def read(self) -> None:
        """Shows what comes on the first connection, to the run's end."""
        async for delta in self._stream:
            if delta.text:
                self.pieces.append(delta.text)
                self._screen.text(delta.text)
            self._begun.set()
            if len(self.pieces) >= STOP_AFTER_DELTAS:
                self._enough.set()
        self._begun.set()
        self._enough.set()

    async def stop_midway(self) -> None:
        """Cancels from the second connection, once enough has come, or after a while on a slow machine."""
        await self._begun.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_AFTER_SECONDS):
                await self._enough.wait()
        self._screen.scissors(len(self.pieces))
        started = time.monotonic()
        self.reply = await self._second.cancel(self._stream.run_id, "I have read enough")
        self.reply_seconds = time.monotonic() - started


async def _tokens_made(engine: LocalEngine) -> int:
    """The engine's counter, once it has noticed that nobody listens: it counts a generation when that has ended."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        metrics = await engine.metrics()
        if not metrics.requests_processing:
            return metrics.predicted_tokens
        await asyncio.sleep(POLL_SECONDS)
    raise CommandFailed(f"the model went on for {SETTLE_SECONDS:.0f} s after it was stopped")
