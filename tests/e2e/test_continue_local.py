"""Abort and go on, with the real local model: a run that was stopped and continued says what an uncut one says."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from midstream_client import AsyncClient, FinishReason, Run, RunState, UsageSource
from midstream_server.app import serving
from midstream_server.settings import Settings, UpstreamSettings

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "local/smollm2"
QUESTION = "What is a lighthouse? One sentence."
GREEDY: dict[str, Any] = {"temperature": 0, "max_output_tokens": 160}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[AsyncClient]:
    """A client of a server whose only upstream is the local model."""
    settings = Settings(listen="127.0.0.1:0", store="memory:", upstreams={"local": UpstreamSettings(dialect="local")})
    async with serving(settings) as application, AsyncClient(application.address) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def uncut(client: AsyncClient) -> Run:
    """The run that nobody stopped."""
    return await whole(client)


def text_of(run: Run) -> str:
    """The text of a run's message."""
    return "".join(part.text.text for part in run.message.parts)


async def stopped(client: AsyncClient, deltas: int, **options: Any) -> Run:
    """A run that was cancelled after so many deltas."""
    async with client.generate(MODEL, QUESTION, parameters=GREEDY, **options) as stream:
        for _ in range(deltas):
            await anext(stream)
        return await stream.cancel()


async def whole(client: AsyncClient, **options: Any) -> Run:
    """A run to its end."""
    return await client.generate(MODEL, QUESTION, parameters=GREEDY, **options).result()


@pytest.mark.parametrize("deltas", [1, 6, 17])
async def test_the_cut_and_the_continued_text_are_the_uncut_one(client, uncut: Run, deltas: int):
    """At temperature 0, wherever it was cut; the new run holds and counts only what is new."""
    cut = await stopped(client, deltas)
    rest = await whole(client, continue_from=cut.run_id)

    assert uncut.finish_reason == FinishReason.STOP
    assert cut.state == RunState.CANCELLED
    assert 0 < len(text_of(cut)) < len(text_of(uncut))
    assert text_of(cut) + text_of(rest) == text_of(uncut)
    assert rest.finish_reason == FinishReason.STOP
    assert rest.continued_from == cut.run_id
    assert rest.usage.output.source == UsageSource.UPSTREAM_FINAL
    assert 0 < rest.usage.output.value < uncut.usage.output.value


async def test_a_run_that_is_cut_twice_is_still_the_uncut_one(client, uncut: Run):
    """The second continuation goes on with both texts."""
    first = await stopped(client, 5)
    second = await stopped(client, 5, continue_from=first.run_id)
    rest = await whole(client, continue_from=second.run_id)

    assert second.state == RunState.CANCELLED
    assert text_of(second) != ""
    assert text_of(first) + text_of(second) + text_of(rest) == text_of(uncut)
