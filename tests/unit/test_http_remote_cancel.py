"""Answers that go on without their reader are stopped by a call of their own."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from http_calls import PROMPT, Reading
from midstream_server.settings import ProfileSettings
from midstream_server.upstreams.base import CallOptions, Profile
from midstream_server.upstreams.http import HttpUpstream, HttpUpstreamConfig
from midstream_server.upstreams.http_exchange import HttpClient
from midstream_server.upstreams.openai_responses import OpenAIResponsesDialect
from raw_server import PATIENCE_SECONDS, RawConnection, RawServer, chunk, stream_head, whole

KEY = "sk-secret-0123456789"
BACKGROUND = Profile(remote_cancel="/responses/{id}/cancel", extra_body={"background": True, "store": True})


def _event(kind: str, **fields: object) -> bytes:
    return chunk(f"data: {json.dumps({'type': kind, **fields})}\n\n".encode())


BEGUN = _event("response.created", response={"id": "resp/1", "status": "in_progress"})
SAID = _event("response.output_text.delta", output_index=0, content_index=0, delta="Hel")
ENDED = _event("response.completed", response={"id": "resp/1", "status": "completed"}) + b"0\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    """A server that does what the test says."""
    server = RawServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.aclose()


async def _reading(
    server: RawServer, client: HttpClient, *sent: bytes, profile: Profile = BACKGROUND
) -> tuple[Reading, RawConnection]:
    """A call that has been answered so far."""
    config = HttpUpstreamConfig(name="up", base_url=server.url, api_key=KEY, profile=profile)
    upstream = HttpUpstream(config, OpenAIResponsesDialect(), client)
    reading = Reading(upstream.call("m", PROMPT, CallOptions()))
    reading.task = asyncio.create_task(reading.run())
    connection = await server.accept()
    assert (await connection.json())["background"] is True
    for each in (stream_head(), *sent):
        connection.send(each)
    return reading, connection


async def test_an_abort_stops_the_answer_by_its_id(server: RawServer, client: HttpClient):
    """The connection is closed first; then a call with the key names the answer; that it is made is waited for."""
    reading, connection = await _reading(server, client, BEGUN, SAID)
    await reading.text("Hel")

    reading.call.abort()
    await connection.hung_up()
    cancel = await server.accept()
    line, headers, _ = await cancel.request()
    assert reading.task is not None
    assert not reading.task.done()
    cancel.send(whole("200 OK", b"{}", "application/json"))
    await reading.ended()

    assert line == "POST /v1/responses/resp%2F1/cancel HTTP/1.1"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert reading.failure is None
    assert reading.call.attempts == 1


async def test_a_connection_that_breaks_stops_the_answer_too(server: RawServer, client: HttpClient):
    """Nobody will read on, so nobody shall pay on."""
    reading, connection = await _reading(server, client, BEGUN, SAID)
    await reading.text("Hel")

    connection.reset()
    cancel = await server.accept()
    await cancel.request()
    cancel.send(whole("200 OK", b"{}", "application/json"))
    await reading.ended()

    assert reading.failure is not None


@pytest.mark.parametrize(
    ("sent", "profile"),
    [
        ((BEGUN, SAID, ENDED), BACKGROUND),
        ((SAID,), BACKGROUND),
        ((BEGUN, SAID), Profile(extra_body={"background": True})),
    ],
    ids=["the answer has ended", "it has no name yet", "a hang-up is enough"],
)
async def test_nothing_is_called_where_nothing_is_to_stop(
    server: RawServer, client: HttpClient, sent: tuple[bytes, ...], profile: Profile
):
    """One connection, one request."""
    reading, _ = await _reading(server, client, *sent, profile=profile)
    await reading.text("Hel")

    reading.call.abort()
    await reading.ended()

    assert len(server.connections) == 1


@pytest.mark.parametrize("answer", ["refusal", "reset"])
async def test_a_call_that_is_of_no_use_is_logged_and_no_more(server: RawServer, client: HttpClient, answer: str):
    """The run ends as it would have; the log has the upstream and not the key."""
    reading, _ = await _reading(server, client, BEGUN, SAID)
    await reading.text("Hel")

    with capture_logs() as logs:
        reading.call.abort()
        cancel = await server.accept()
        await cancel.request()
        if answer == "refusal":
            cancel.send(whole("404 Not Found", f"no {KEY}".encode(), "text/plain")[:-1])
        else:
            cancel.reset()
        await reading.ended()
    await cancel.hung_up()

    [line] = logs
    assert line["event"] == f"upstream.remote_cancel_{'refused' if answer == 'refusal' else 'failed'}"
    assert line["upstream"] == "up"
    assert KEY not in str(logs)
    assert reading.failure is None


async def test_a_stuck_call_ends_with_its_task(server: RawServer, client: HttpClient):
    """Who cannot wait cancels; no connection stays open."""
    reading, _ = await _reading(server, client, BEGUN, SAID)
    await reading.text("Hel")
    reading.call.abort()
    cancel = await server.accept()
    await cancel.request()

    assert reading.task is not None
    reading.task.cancel()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.wait([reading.task])
    await cancel.hung_up()

    assert reading.task.cancelled()


@pytest.mark.parametrize("path", ["responses/{id}/cancel", "/responses/cancel", "/a b/{id}"])
def test_a_path_that_names_no_answer_is_refused(path: str):
    """In the configuration."""
    with pytest.raises(ValueError, match="remote_cancel"):
        ProfileSettings(remote_cancel=path)
