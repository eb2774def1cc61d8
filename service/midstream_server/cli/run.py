"""`midstream run` and `midstream watch`: follow a run in the terminal."""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from midstream_client import AsyncClient
from midstream_server.cli.follow import JsonPrinter, Session, TextPrinter
from midstream_server.cli.outcome import require_server


def run(server: str, model: str, prompt: str, options: Mapping[str, Any], *, json_output: bool) -> int:
    """Starts a run, or attaches to it, and shows it to its end."""
    require_server(server)
    return asyncio.run(_run(server, model, prompt, options, json_output=json_output))


def watch(server: str, run_id: str, *, after: int | None, snapshot: bool, claim: bool, json_output: bool) -> int:
    """Shows a run that exists."""
    require_server(server)
    return asyncio.run(_watch(server, run_id, after, snapshot=snapshot, claim=claim, json_output=json_output))


def read_prompt(prompt: str | None) -> str | None:
    """The prompt of the command line, or all of standard input; None if there is neither."""
    if prompt is not None and prompt != "-":
        return prompt
    if prompt is None and sys.stdin.isatty():
        return None
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


async def _run(server: str, model: str, prompt: str, options: Mapping[str, Any], *, json_output: bool) -> int:
    async with (
        AsyncClient(server) as client,
        client.generate(model, prompt, **options) as stream,
    ):
        return await Session(stream, _printer(json_output), stops_run=True).follow()


async def _watch(server: str, run_id: str, after: int | None, *, snapshot: bool, claim: bool, json_output: bool) -> int:
    async with (
        AsyncClient(server) as client,
        client.watch(run_id, after_sequence=after, from_snapshot=snapshot, claim=claim) as stream,
    ):
        return await Session(stream, _printer(json_output), stops_run=claim).follow()


def _printer(json_output: bool) -> JsonPrinter | TextPrinter:
    return JsonPrinter() if json_output else TextPrinter()
