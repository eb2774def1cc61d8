"""What the requests of Gemini, Ollama and Cohere are on the wire, and how they list their models."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from http_calls import KEY, PROMPT, Reading
from midstream_server.upstreams.base import CallOptions, Dialect
from midstream_server.upstreams.cohere import CohereDialect
from midstream_server.upstreams.gemini import GeminiDialect
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.ollama import OllamaDialect
from raw_server import RawServer, whole

GEMINI_MODELS = {
    "models": [
        {"name": "models/gemini-x", "supportedGenerationMethods": ["generateContent", "countTokens"]},
        {"name": "models/embedding-x", "supportedGenerationMethods": ["embedContent"]},
        {"name": "tunedModels/mine", "supportedGenerationMethods": ["generateContent"]},
        {"name": "models/no good", "supportedGenerationMethods": ["generateContent"]},
        {"name": "models/silent"},
        None,
    ]
}
OLLAMA_MODELS = {"models": [{"name": "moss:1b", "model": "moss:1b"}, {"name": "library/oak:latest"}, {"name": 7}]}
COHERE_MODELS = {
    "models": [
        {"name": "command-a", "endpoints": ["generate", "chat"]},
        {"name": "embed-v4", "endpoints": ["embed"]},
        {"name": "silent", "endpoints": None},
    ],
    "next_page_token": None,
}
MODELS = {"gemini": GEMINI_MODELS, "ollama": OLLAMA_MODELS, "cohere": COHERE_MODELS}


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


@asynccontextmanager
async def upstream(server: RawServer, dialect: Dialect) -> AsyncIterator[HttpUpstream]:
    """An upstream at the server."""
    client = HttpClient(ssl.create_default_context())
    config = HttpUpstreamConfig(name="test", base_url=f"http://127.0.0.1:{server.port}/here", api_key=KEY)
    try:
        yield HttpUpstream(config, dialect, client)
    finally:
        await client.aclose()


@pytest.mark.parametrize(
    ("dialect", "target", "header", "names"),
    [
        (
            GeminiDialect(),
            "/here/v1beta/models?pageSize=1000",
            ("x-goog-api-key", KEY),
            ["test/gemini-x", "test/tunedModels/mine"],
        ),
        (
            OllamaDialect(),
            "/here/api/tags",
            ("authorization", f"Bearer {KEY}"),
            ["test/moss:1b", "test/library/oak:latest"],
        ),
        (
            CohereDialect(),
            "/here/v1/models?endpoint=chat&page_size=1000",
            ("authorization", f"Bearer {KEY}"),
            ["test/command-a"],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_models_are_listed(
    server: RawServer, dialect: Dialect, target: str, header: tuple[str, str], names: list[str]
):
    """Those that generate, by the names that callers use."""
    body = json.dumps(MODELS[dialect.name]).encode()
    async with upstream(server, dialect) as asked:
        listing = asyncio.ensure_future(asked.models())
        connection = await server.accept()
        first, headers, _ = await connection.request()
        connection.send(whole("200 OK", body))
        models = await listing

    assert first == f"GET {target} HTTP/1.1"
    assert headers[header[0]] == header[1]
    assert [model.name for model in models] == names


@pytest.mark.parametrize(
    ("dialect", "model", "target", "answer", "content_type"),
    [
        (
            GeminiDialect(),
            "a/../b?c#d%e",
            "/here/v1beta/models/a%2F..%2Fb%3Fc%23d%25e:streamGenerateContent?alt=sse",
            b'[{"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":"STOP"}]}]',
            "application/json; charset=UTF-8",
        ),
        (
            OllamaDialect(),
            "moss:1b",
            "/here/api/chat",
            b'{"message":{"content":"Hi"},"done":true,"done_reason":"stop"}\n',
            "application/x-ndjson",
        ),
        (
            CohereDialect(),
            "command-a",
            "/here/v2/chat",
            b'data: {"type":"content-delta","delta":{"message":{"content":{"text":"Hi"}}}}\n\n'
            b'data: {"type":"message-end","delta":{"finish_reason":"COMPLETE"}}\n\n',
            "text/event-stream",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_request_on_the_wire(
    server: RawServer, dialect: Dialect, model: str, target: str, answer: bytes, content_type: str
):
    """The model's name stays where it belongs, the key is a header, and the answer is read."""
    async with upstream(server, dialect) as called:
        reading = Reading(called.call(model, PROMPT, CallOptions()))
        reading.task = asyncio.create_task(reading.run(), name="reading")
        connection = await server.accept()
        first, headers, body = await connection.request()
        connection.send(whole("200 OK", answer, content_type))
        await reading.ended()

    assert first == f"POST {target} HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert KEY in (headers.get("x-goog-api-key"), headers.get("authorization", "").removeprefix("Bearer "))
    assert b"Hello" in body
    assert KEY.encode() not in body
    assert (reading.folded.text(), reading.failure) == ("Hi", None)
