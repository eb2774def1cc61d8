"""The real local model: it streams, it stops when it is hung up on, and its process is well kept."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from midstream_server.errors import UpstreamUnavailable
from midstream_server.model import GenerationParameters, Message, Part, Prompt, Role, Text, TextDelta
from midstream_server.upstreams.base import CallOptions, PartDelta, UpstreamCall
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.local import EngineAddress, EngineMetrics, LocalEngine
from midstream_server.upstreams.local_upstream import LOCAL_PROFILE, LocalUpstream
from midstream_server.upstreams.openai_chat import OpenAIChatDialect

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG_PROMPT = " ".join(f"Item {number} is a thing." for number in range(200))
"""More than a thousand tokens: about ten seconds of work."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[LocalEngine]:
    engine = LocalEngine()
    yield engine
    await engine.close()


@asynccontextmanager
async def completion(address: EngineAddress, prompt: str, **fields: Any) -> AsyncIterator[AsyncIterator[Any]]:
    """The events of an answer; leaving the block hangs up."""
    body = {
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "temperature": 0,
        "stream_options": {"include_usage": True},
        LOCAL_PROFILE.max_tokens_field: 200,
        **LOCAL_PROFILE.extra_body,
        **fields,
    }
    headers = {"authorization": f"Bearer {address.api_key}", "connection": "close"}
    async with (
        httpx.AsyncClient(verify=False, trust_env=False, timeout=30) as client,
        client.stream("POST", f"{address.base_url}/chat/completions", json=body, headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        yield (json.loads(line[6:]) async for line in response.aiter_lines() if line.startswith("data: {"))


def text_of(event: Any) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


async def read_all(address: EngineAddress, prompt: str, **fields: Any) -> list[Any]:
    async with completion(address, prompt, **fields) as events:
        return [event async for event in events]


async def metrics_when(engine: LocalEngine, wanted: Callable[[EngineMetrics], bool]) -> EngineMetrics:
    """Asks the engine until it says so; each question is a request that takes its time."""
    async with asyncio.timeout(20):
        while not wanted(metrics := await engine.metrics()):
            pass
    return metrics


def exists(process_id: int | None) -> bool:
    return Path(f"/proc/{process_id}").exists()


def command_line(process_id: int | None) -> bytes:
    return Path(f"/proc/{process_id}/cmdline").read_bytes()


async def read_until_it_breaks(address: EngineAddress, prompt: str, first_token: asyncio.Event) -> None:
    async with completion(address, prompt) as events:
        async for event in events:
            if text_of(event):
                first_token.set()


def is_idle(metrics: EngineMetrics) -> bool:
    return metrics.requests_processing == 0


async def test_tokens_stream_and_are_counted(engine):
    """One event per token; the account, the stream and the engine's counter agree."""
    address = await engine.start()
    before = await engine.metrics()

    events = await read_all(address, "Count from 1 to 5.", max_tokens=20)

    texts = [text_of(event) for event in events if text_of(event)]
    after = await metrics_when(engine, is_idle)
    assert "".join(texts).strip()
    assert len(texts) > 5
    assert events[-1]["usage"]["completion_tokens"] == after.predicted_tokens - before.predicted_tokens
    assert {event["model"] for event in events} == {"smollm2"}


async def test_hanging_up_between_tokens_stops_the_engine(engine):
    """It makes a token or two more at most, of the two hundred that it was asked for."""
    address = await engine.start()
    before = await metrics_when(engine, is_idle)
    received = 0

    async with completion(address, "Tell me a long story about a lighthouse.") as events:
        async for event in events:
            received += bool(text_of(event))
            if received == 20:
                break
    after = await metrics_when(engine, is_idle)

    made = after.predicted_tokens - before.predicted_tokens
    assert received <= made <= received + 3


async def test_hanging_up_during_the_prompt_stops_the_engine(engine):
    """Most of a long prompt is never worked off, and no token made."""
    address = await engine.start()
    before = await metrics_when(engine, is_idle)

    async with completion(address, LONG_PROMPT, cache_prompt=False) as events:
        begun = [await anext(events), await anext(events)]
    after = await metrics_when(engine, is_idle)

    progress = begun[-1]["prompt_progress"]
    assert progress["total"] > 951
    assert progress["processed"] > 0
    assert after.predicted_tokens == before.predicted_tokens
    assert after.prompt_tokens - before.prompt_tokens < progress["total"] / 2
    assert progress["processed"] < progress["total"] / 2


async def test_partial_is_continued_where_it_was_cut(engine):
    """An assistant message at the end is the beginning of the answer."""
    address = await engine.start()
    question = {"role": "user", "content": "Name three colours."}
    whole = "".join(map(text_of, await read_all(address, "", messages=[question], max_tokens=24)))
    cut = whole[: len(whole) // 2]

    partial = {"role": "assistant", "content": cut}
    rest = "".join(map(text_of, await read_all(address, "", messages=[question, partial], max_tokens=24)))

    assert len(cut) > 5
    assert (cut + rest).startswith(whole)


async def test_nobody_without_the_key_is_served(engine):
    """Other users of this machine neither generate nor read prompts; only its health is public."""
    address = await engine.start()
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        generate = await client.post(f"{address.base_url}/chat/completions", json={"messages": []})
        slots = await client.get(address.base_url.replace("/v1", "/slots"))
        page = await client.get(address.base_url.replace("/v1", "/"))

    assert (generate.status_code, slots.status_code, page.status_code) == (401, 401, 404)
    assert address.base_url.startswith("http://127.0.0.1:")
    assert address.api_key.encode() not in command_line(engine.process_id)


async def test_killed_engine_is_restarted_by_the_next_use(engine):
    """The stream that it was in breaks; the next call gets a fresh engine."""
    address = await engine.start()
    process_id = engine.process_id
    assert process_id is not None

    first_token = asyncio.Event()
    reading = asyncio.create_task(read_until_it_breaks(address, "Tell me a long story about the sea.", first_token))
    await first_token.wait()

    os.kill(process_id, signal.SIGKILL)
    with pytest.raises(httpx.RemoteProtocolError):
        await reading
    assert await engine.has_died()
    again = await engine.start()
    events_again = await read_all(again, "Say hello.", max_tokens=3)

    assert engine.process_id not in (None, process_id)
    assert not exists(process_id)
    assert events_again[-1]["usage"]["completion_tokens"] == 3


async def test_closing_leaves_no_process():
    """Nor a thing that answers; also in the middle of an answer."""
    engine = LocalEngine()
    address = await engine.start()
    process_id = engine.process_id

    first_token = asyncio.Event()
    reading = asyncio.create_task(read_until_it_breaks(address, "Tell me a long story about a train.", first_token))
    await first_token.wait()

    await engine.close()

    with pytest.raises(httpx.RemoteProtocolError):
        await reading
    assert not exists(process_id)
    with pytest.raises(UpstreamUnavailable):
        await engine.start()


async def test_abort_of_a_call_stops_the_engine(engine):
    """Through the dialect and the HTTP policy, as a run does it."""
    await engine.start()
    before = await metrics_when(engine, is_idle)
    text = ""

    async with call_of(engine, "Tell me a long story about a river.", tokens=150) as call:
        async for piece in texts(call):
            text += piece
            if len(text) > 60:
                call.abort()
    made = (await metrics_when(engine, is_idle)).predicted_tokens - before.predicted_tokens

    assert call.attempts == 1
    assert 5 < made < 60


async def test_call_that_meets_a_dying_engine_gets_another(engine):
    """The child was killed a moment ago: the call is answered all the same."""
    await engine.start()
    process_id = engine.process_id
    assert process_id is not None

    os.kill(process_id, signal.SIGKILL)
    async with call_of(engine, "Say hello.", tokens=3) as call:
        text = "".join([piece async for piece in texts(call)])

    assert text
    assert engine.process_id != process_id


@asynccontextmanager
async def call_of(engine: LocalEngine, text: str, *, tokens: int) -> AsyncIterator[UpstreamCall]:
    """A call of the upstream, put together as in the server."""
    client = HttpClient()

    def make(base_url: str, api_key: str) -> HttpUpstream:
        config = HttpUpstreamConfig(name="local", base_url=base_url, api_key=api_key, profile=LOCAL_PROFILE)
        return HttpUpstream(config, OpenAIChatDialect(), client)

    message = Message(role=Role.USER, parts=(Part(content=Text(text=text)),))
    parameters = GenerationParameters(temperature=0, max_output_tokens=tokens)
    prompt = Prompt(messages=(message,), parameters=parameters)
    try:
        async with LocalUpstream("local", engine, make).call("smollm2", prompt, CallOptions()) as call:
            yield call
    finally:
        await client.aclose()


async def texts(call: UpstreamCall) -> AsyncIterator[str]:
    async for batch in call.batches():
        for event in batch.events:
            if isinstance(event, PartDelta) and isinstance(event.payload, TextDelta):
                yield event.payload.text


OWNER = """
import asyncio
from midstream_server.model import GenerationParameters, Message, Part, Prompt, Role, Text, TextDelta
from midstream_server.upstreams.base import CallOptions, PartDelta, UpstreamCall
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.local import LocalEngine

async def main():
    engine = LocalEngine()
    await engine.start()
    print(engine.process_id, flush=True)
    await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


async def test_engine_ends_with_its_parent():
    """Even when the parent is killed and can do nothing about it."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert parent.stdout is not None
    while not (line := await parent.stdout.readline()).strip().isdigit():
        assert line, "the parent died"
    ended = asyncio.Event()
    child = os.pidfd_open(int(line))
    asyncio.get_running_loop().add_reader(child, ended.set)

    parent.kill()
    await parent.wait()
    async with asyncio.timeout(10):
        await ended.wait()

    asyncio.get_running_loop().remove_reader(child)
    os.close(child)
