"""Asking an endpoint for its models."""

import asyncio
import json
from typing import Any

import pytest

from http_calls import KEY, calling
from midstream_server.errors import RunFailure, UpstreamMalformed, UpstreamRejected, UpstreamUnavailable
from midstream_server.model import ModelInfo
from midstream_server.upstreams.base import Profile
from raw_server import RawServer, whole

JSON_ERROR = b'{"error": {"message": "No credit on ' + KEY.encode() + b'", "type": "insufficient_quota", "code": 402}}'


@pytest.fixture
async def server():
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


async def _models(server: RawServer, answer: bytes, **settings: Any) -> list[ModelInfo] | RunFailure:
    async with calling(server, **settings) as caller:
        asked = asyncio.ensure_future(caller.upstream.models())
        connection = await server.accept()
        first, headers, _ = await connection.request()
        assert first == "GET /v1/models HTTP/1.1"
        assert headers["authorization"] == f"Bearer {KEY}"
        connection.send(answer)
        try:
            return list(await asked)
        except RunFailure as failure:
            return failure


async def test_models_are_listed(server: RawServer):
    """By the names that callers use; names that nobody could write are left out."""
    body = json.dumps({"data": [{"id": "a"}, {"id": "org/b"}, {"id": "no good"}, {"id": 7}, {"id": "a"}, None]})

    models = await _models(server, whole("200 OK", body.encode()), profile=Profile(continue_prefix="prefix_flag"))

    assert models == [
        ModelInfo(name=f"test/{name}", upstream="test", dialect="openai-chat", supports_continue=True)
        for name in ("a", "org/b")
    ]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (whole("200 OK", b"<html>"), UpstreamMalformed),
        (whole("200 OK", b'{"data": 7}'), UpstreamMalformed),
        (whole("401 Unauthorized", JSON_ERROR), UpstreamRejected),
        (b"nonsense\r\n\r\n", UpstreamMalformed),
    ],
)
async def test_models_that_cannot_be_listed(server: RawServer, answer: bytes, expected: type[RunFailure]):
    """A failure as of a call."""
    failure = await _models(server, answer)

    assert type(failure) is expected
    assert KEY not in str(failure)


async def test_models_have_a_clock(server: RawServer):
    """An endpoint that does not answer is not waited for."""
    async with calling(server, models_seconds=0.05) as caller:
        with pytest.raises(UpstreamUnavailable):
            await caller.upstream.models()
        await (await server.accept()).hung_up()


async def test_configured_models_are_not_asked_for(server: RawServer):
    """Where the configuration names them, that is the list."""
    async with calling(server, models=("x",)) as caller:
        assert [model.name for model in await caller.upstream.models()] == ["test/x"]
    assert server.connections == []
