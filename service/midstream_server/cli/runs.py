"""The commands that ask once: get, list, cancel, delete, models."""

from collections.abc import Mapping
from dataclasses import dataclass

from midstream_client import CancelOutcome, Client, MessageView, RunState
from midstream_server.cli import terminal
from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.outcome import require_server
from midstream_server.cli.present import as_json, show_run, state_word, when

_PATIENCE_SECONDS = 30 * 86400.0
_MAX_PAGE = 500


def get(endpoint: Endpoint, run_id: str, *, wait: bool, replay: bool, json_output: bool) -> int:
    """Shows a run; with `wait` only once it has ended."""
    with _connected(endpoint) as client:
        run = client.get(
            run_id,
            view=MessageView.REPLAY if replay else MessageView.AS_STREAMED,
            wait=_PATIENCE_SECONDS if wait else None,
        )
    if json_output:
        terminal.print_json(as_json(run))
    else:
        show_run(run, terminal.answers(), terminal.remarks())
    return terminal.OK


def cancel(endpoint: Endpoint, run_id: str, *, reason: str, wait: float | None, json_output: bool) -> int:
    """Stops a run and shows what it made."""
    with _connected(endpoint) as client:
        result = client.cancel(run_id, reason, wait)
    if json_output:
        outcome = CancelOutcome(result.outcome).name
        terminal.print_json({"outcome": f"OUTCOME_{outcome}", "run": as_json(result.run)})
        return terminal.OK
    remarks = terminal.remarks()
    if result.outcome == CancelOutcome.REMEMBERED:
        remarks.line(f"no run {run_id} has started yet; the one that comes will be stopped before it begins")
        return terminal.OK
    show_run(result.run, terminal.answers(), remarks)
    if result.outcome == CancelOutcome.ALREADY_FINISHED:
        remarks.line("it had ended before; nothing was changed", terminal.DIM)
    if result.outcome == CancelOutcome.STOPPING:
        remarks.line(f"it is stopping; 'midstream get {run_id} --wait' shows how it ends", terminal.DIM)
    return terminal.OK


def delete(endpoint: Endpoint, run_id: str, *, json_output: bool) -> int:
    """Deletes what an ended run made."""
    with _connected(endpoint) as client:
        client.delete(run_id)
    if json_output:
        terminal.print_json({})
    elif terminal.remarks().is_terminal:
        terminal.remarks().line(f"deleted what run {run_id} had made; its id stays taken for 24 h", terminal.DIM)
    return terminal.OK


def _connected(endpoint: Endpoint) -> Client:
    require_server(endpoint.address)
    return endpoint.client()


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which runs to list."""

    state: str | None
    conversation_id: str
    parent_run_id: str
    labels: Mapping[str, str]


def list_runs(endpoint: Endpoint, filters: Filters, *, limit: int, json_output: bool) -> int:
    """Lists runs, newest first."""
    shown: list[list[str]] = []
    with _connected(endpoint) as client:
        runs = client.list(
            state=RunState[filters.state.upper()] if filters.state else None,
            conversation_id=filters.conversation_id,
            parent_run_id=filters.parent_run_id,
            labels=filters.labels,
            page_size=min(limit, _MAX_PAGE),
        )
        for _, run in zip(range(limit), runs, strict=False):
            if json_output:
                terminal.print_json(as_json(run))
            else:
                tokens = str(run.usage.output.value) if run.usage.HasField("output") else ""
                shown.append([run.run_id, state_word(run), run.model, tokens, when(run)])
    if not json_output:
        terminal.print_table(["run", "state", "model", "tokens", "started"], shown)
    return terminal.OK


def models(endpoint: Endpoint, *, json_output: bool) -> int:
    """Lists the models that can be named."""
    with _connected(endpoint) as client:
        answer = client.models()
    if json_output:
        terminal.print_json(as_json(answer))
        return terminal.OK
    rows = [[each.name, ", ".join(each.route) or each.upstream, each.dialect] for each in answer.models]
    terminal.print_table(["model", "served by", "dialect"], rows)
    for name in answer.unreachable_upstreams:
        terminal.remarks().line(f"{name} did not say which models it has", terminal.YELLOW)
    return terminal.OK
