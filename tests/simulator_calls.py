"""How the simulator's tests call it, and read what it answers."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from midstream_simulator import Simulator


def body_for(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "stream": True, "messages": [{"role": "user", "content": "say hello to me"}], **fields}


async def call(client: httpx.AsyncClient, simulator: Simulator, model: str, **fields: Any) -> httpx.Response:
    return await client.post(f"{simulator.base_url}/chat/completions", json=body_for(model, **fields))


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of each whole event, without the end marker."""
    data = re.findall(r"^data: (.*)\n\n", text, re.MULTILINE)
    return [json.loads(each) for each in data if each != "[DONE]"]


def deltas(text: str) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events(text) if event.get("choices")]


def content(text: str) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(text))


def request_bytes(model: str, **fields: Any) -> bytes:
    data = json.dumps(body_for(model, **fields)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: simulator\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


@asynccontextmanager
async def raw_call(
    simulator: Simulator, model: str, **fields: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Sends a request over a plain socket, which stays open until the block is left."""
    reader, writer = await asyncio.open_connection(*simulator.address.split(":"))
    writer.write(request_bytes(model, **fields))
    try:
        yield reader, writer
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
