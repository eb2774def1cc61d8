"""`midstream run`, `continue` and `watch`: follow a run in the terminal."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any

import typer

from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.follow import JsonPrinter, Session, TextPrinter
from midstream_server.cli.outcome import require_server


def run(endpoint: Endpoint, model: str, prompt: str, options: Mapping[str, Any], *, json_output: bool) -> int:
    """Starts a run, or attaches to it, and shows it to its end."""
    require_server(endpoint.address)
    logging.getLogger("midstream_client").setLevel(logging.ERROR)  # what it warns of, the command's last words say
    return asyncio.run(_run(endpoint, model, prompt, options, json_output=json_output))


def continue_run(
    endpoint: Endpoint, run_id: str, model: str | None, prompt: str, options: Mapping[str, Any], *, json_output: bool
) -> int:
    """Starts a run that goes on with the text of another, by default with its model, and shows it to its end."""
    require_server(endpoint.address)
    if model is None:
        with endpoint.client() as client:
            model = client.get(run_id).model
    return run(endpoint, model, prompt, {**options, "continue_from": run_id}, json_output=json_output)


def watch(endpoint: Endpoint, run_id: str, *, after: int | None, snapshot: bool, claim: bool, json_output: bool) -> int:
    """Shows a run that exists."""
    require_server(endpoint.address)
    return asyncio.run(_watch(endpoint, run_id, after, snapshot=snapshot, claim=claim, json_output=json_output))


def read_prompt(prompt: str | None) -> str:
    """The prompt of the command line, or all of standard input.

    Raises:
        typer.BadParameter: there is neither.
    """
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        prompt = sys.stdin.buffer.read().decode("utf-8", errors="replace")
    if not prompt:
        raise typer.BadParameter("there is no prompt: give one, or send it through a pipe", param_hint="PROMPT")
    return prompt


async def _run(endpoint: Endpoint, model: str, prompt: str, options: Mapping[str, Any], *, json_output: bool) -> int:
    async with (
        endpoint.async_client() as client,
        client.generate(model, prompt, **options) as stream,
    ):
        return await Session(stream, _printer(json_output), stops_run=True).follow()


async def _watch(
    endpoint: Endpoint, run_id: str, after: int | None, *, snapshot: bool, claim: bool, json_output: bool
) -> int:
    async with (
        endpoint.async_client() as client,
        client.watch(run_id, after_sequence=after, from_snapshot=snapshot, claim=claim) as stream,
    ):
        return await Session(stream, _printer(json_output), stops_run=claim).follow()


def _printer(json_output: bool) -> JsonPrinter | TextPrinter:
    return JsonPrinter() if json_output else TextPrinter()
