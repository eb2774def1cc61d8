"""A server whose upstream `sim` is the simulator, in the dialect that a test is about. A new dialect is a new row."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from midstream_server.app import serving
from midstream_server.settings import UpstreamSettings
from midstream_simulator import Simulator
from rpc.served import Service, opened, settings_for

KEY = "sk-canary-0123456789abcdef"


@dataclass(frozen=True, kw_only=True)
class DialectCase:
    """What a test must know of a dialect."""

    name: str
    path: str = ""
    """What follows the simulator's address in `base_url`."""
    recordings: str
    """The folder of its recorded streams."""
    half_an_event: str
    """The beginning of an event with text; its end never comes."""
    stop: str
    """The provider's word where the model stopped by itself."""
    refusal_is_a_part: bool
    """Whether the provider sets the words of a refusal apart from other text."""
    arguments: str = '{"city": "Paris"}'
    """Those of the simulator's tool call: as text they keep their white space, as an object they do not."""


CASES = {
    each.name: each
    for each in (
        DialectCase(
            name="anthropic",
            recordings="anthropic",
            half_an_event='event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"ty',
            stop="end_turn",
            refusal_is_a_part=False,
        ),
        DialectCase(
            name="cohere",
            recordings="cohere",
            half_an_event='event: content-delta\ndata: {"type":"content-delta","delta":{"message":{"content":{"te',
            stop="COMPLETE",
            refusal_is_a_part=False,
        ),
        DialectCase(
            name="gemini",
            recordings="gemini",
            half_an_event='data: {"candidates":[{"content":{"parts":[{"text":"lost',
            stop="STOP",
            refusal_is_a_part=False,
            arguments='{"city":"Paris"}',
        ),
        DialectCase(
            name="ollama",
            recordings="ollama",
            half_an_event='{"model":"m","message":{"role":"assistant","content":"lost',
            stop="stop",
            refusal_is_a_part=False,
            arguments='{"city":"Paris"}',
        ),
        DialectCase(
            name="openai-chat",
            path="/v1",
            recordings="openai_chat",
            half_an_event='data: {"id":"c","choices":[{"index":0,"delta":{"content":"lost',
            stop="stop",
            refusal_is_a_part=True,
        ),
        DialectCase(
            name="openai-responses",
            path="/v1",
            recordings="openai_responses",
            half_an_event='event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"lo',
            stop="completed",
            refusal_is_a_part=True,
        ),
    )
}


@asynccontextmanager
async def dialect_service(case: DialectCase, **upstream: Any) -> AsyncIterator[Service]:
    """Serves until left; calls of the upstream carry KEY, and are tried once."""
    async with Simulator() as simulator:
        settings = UpstreamSettings.model_validate(
            {"dialect": case.name, "base_url": f"{simulator.origin}{case.path}", "max_attempts": 1} | upstream
        ).model_copy(update={"api_key": SecretStr(KEY)})
        async with (
            serving(settings_for(simulator.base_url, upstreams={"sim": settings})) as application,
            opened(application.address) as (channel, stub),
        ):
            yield Service(application.address, simulator, application, stub, channel)
