"""Every recorded stream, through the real server: what GetRun then says."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.app import serving
from midstream_server.settings import UpstreamSettings
from raw_server import RawServer, whole
from recordings import recordings_folder
from rpc.served import opened, request_for, settings_for

pytestmark = pytest.mark.recorded

CONTENT_TYPES = {".sse": "text/event-stream", ".ndjson": "application/x-ndjson", ".json": "application/json"}
FOLDER = recordings_folder()
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "EXPECTED.json").read_text()) if FOLDER else {}
ENDINGS = {
    "completed": run_pb2.RUN_STATE_COMPLETED,
    "blocked": run_pb2.RUN_STATE_COMPLETED,
    "error": run_pb2.RUN_STATE_FAILED,
}


async def _run(name: str, body: bytes) -> tuple[list[run_pb2.RunEvent], run_pb2.Run]:
    """The events of a run whose upstream answers with these bytes, and what GetRun says of it."""
    upstream = RawServer()
    await upstream.start()
    dialect = name.partition("/")[0].replace("_", "-")
    endpoint = UpstreamSettings.model_validate({"dialect": dialect, "base_url": f"http://127.0.0.1:{upstream.port}"})
    try:
        async with (
            serving(settings_for(upstream.url, upstreams={"sim": endpoint})) as application,
            opened(application.address) as (_, stub),
        ):
            answering = asyncio.create_task(_answer(upstream, whole("200 OK", body, CONTENT_TYPES[Path(name).suffix])))
            events = [event async for event in stub.Generate(request_for("model", run_id="recorded"))]
            await answering
            return events, await stub.GetRun(wire.GetRunRequest(run_id="recorded"))
    finally:
        await upstream.stop()


async def _answer(upstream: RawServer, answer: bytes) -> None:
    connection = await upstream.accept()
    await connection.request()
    connection.send(answer)


@pytest.mark.parametrize("name", EXPECTED or ["absent/absent"])
async def test_a_recorded_stream_becomes_the_run_that_was_expected(name: str, recordings: Path):
    """Text, reasoning, refusal, calls, finish, ending, usage (P12); and its events join to its message (P2)."""
    expected = EXPECTED[name]

    events, run = await _run(name, (recordings / name).read_bytes())

    assert events[-1].finished.run == run
    entries = [event.sequence for event in events if not event.HasField("progress")]
    assert entries == list(range(1, len(entries) + 1))
    assert _joined(events) == [_payload(part) for part in run.message.parts]
    assert run.state == ENDINGS[expected["outcome"]]
    assert run.raw_finish_reason == expected["finish_reason"]
    for kind in ("text", "reasoning", "refusal"):
        parts = [getattr(part, kind).text for part in run.message.parts if part.HasField(kind)]
        assert "".join(parts) == expected[kind]
    calls = [part.tool_call for part in run.message.parts if part.HasField("tool_call")]
    assert [(call.name, call.arguments) for call in calls] == [
        (call["name"], call["arguments"]) for call in expected["tool_calls"]
    ]
    assert all(call.id for call in calls)
    assert run.provider_metadata.get("tool_plan", "") == expected.get("tool_plan", "")
    assert run.HasField("error") == (expected["outcome"] == "error")
    if "input_tokens" in expected["usage"]:
        assert run.usage.input.value == expected["usage"]["input_tokens"]
        assert run.usage.input.source == run_pb2.USAGE_SOURCE_UPSTREAM_FINAL
    states = {part.state for part in run.message.parts}
    assert run_pb2.PART_STATE_OPEN not in states


def _joined(events: list[run_pb2.RunEvent]) -> list[str]:
    parts: list[str] = []
    for event in events:
        if not event.HasField("delta"):
            continue
        delta = event.delta
        if delta.part_index == len(parts):
            parts.append("")
        assert delta.offset == len(parts[delta.part_index].encode())
        parts[delta.part_index] += delta.text or delta.reasoning or delta.refusal or delta.tool_call.arguments
    return parts


def _payload(part: run_pb2.Part) -> str:
    return part.text.text or part.reasoning.text or part.refusal.text or part.tool_call.arguments
