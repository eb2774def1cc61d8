"""The simulator's Messages dialect: its streams are as the provider documents them."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from midstream_simulator import Finish, Reasoning, Role, Simulator, Text, ToolCall


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as made:
        yield made


async def _post(simulator: Simulator, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": "hi"}], **fields}
    async with httpx.AsyncClient(verify=False, trust_env=False) as client:
        return await client.post(f"{simulator.origin}/v1/messages", json=body)


def _events(text: str) -> list[dict[str, Any]]:
    """The events; each has its own name."""
    found = re.findall(r"event: (.*)\ndata: (.*)\n\n", text)
    events: list[dict[str, Any]] = [json.loads(data) for _, data in found]
    assert [event["type"] for event in events] == [name for name, _ in found]
    return events


async def test_blocks_begin_go_on_and_end(simulator: Simulator):
    """One after the other, but for tool calls, which end with the answer; thinking is signed."""
    simulator.play(
        "m",
        [
            *(Role(), Reasoning(["a", "b"]), Text(["c"])),
            *(ToolCall(['{"x"'], id="t1", name="f"), ToolCall(["{}"], index=1, id="t2", name="g"), ToolCall([":1}"])),
            Finish("tool_calls"),
        ],
    )

    events = _events((await _post(simulator, "m")).text)

    assert [(event["type"].removeprefix("content_block_"), event.get("index")) for event in events] == [
        ("message_start", None),
        *[("start", 0), ("delta", 0), ("delta", 0), ("delta", 0), ("stop", 0)],
        *[("start", 1), ("delta", 1), ("stop", 1)],
        *[("start", 2), ("delta", 2), ("start", 3), ("delta", 3), ("delta", 2), ("stop", 2), ("stop", 3)],
        ("message_delta", None),
    ]
    assert events[4]["delta"]["type"] == "signature_delta"
    assert events[-1]["delta"]["stop_reason"] == "tool_use"
    assert events[-1]["usage"] == {"output_tokens": 6}


async def test_shapes(simulator: Simulator):
    """A model's name says what to do, here too."""
    counted = _events((await _post(simulator, "count-10", max_tokens=2)).text)
    stamped = _events((await _post(simulator, "bench-n3-r0")).text)
    missing = await _post(simulator, "nothing-of-the-kind")

    assert [event["delta"]["text"] for event in counted if event["type"] == "content_block_delta"] == ["1", " 2"]
    assert counted[-2]["delta"]["stop_reason"] == "max_tokens"
    assert [event["type"] for event in stamped].count("content_block_delta") == 3
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize("fields", [{"max_tokens": None}, {"messages": []}, {"messages": [7]}, {"stream": False}])
async def test_requests_that_the_api_refuses(simulator: Simulator, fields: dict[str, Any]):
    """With the status and the type that the provider has for it."""
    answer = await _post(simulator, "count-2", **fields)

    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
