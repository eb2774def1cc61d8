"""The command line: what each command takes. What a command does is loaded when it runs, so that help is quick."""

import os
from typing import Annotated

import typer

from midstream_server.cli import options
from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.options import DEFAULT_SERVER
from midstream_server.cli.outcome import outcome

app = typer.Typer(
    name="midstream",
    help="LLM generations that can be stopped midstream, with the text kept.",
    epilog="Exit codes: 0 it worked; 1 it failed, or the run did; 2 wrong usage or settings; 3 the run was cancelled; "
    "130 stopped by Ctrl-C; 141 the reader of the output left.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"midstream {version('midstream-server')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Takes what is no command."""


def main() -> None:
    """The entry point."""
    # gRPC remarks on standard error that a child was started, or a port taken; we never fork without an exec, and say
    # in our own words what went wrong.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(prog_name="midstream")


# --- The server -------------------------------------------------------------------------------------------------------


@app.command()
@options.takes_server_flags
def serve(
    *,
    config: options.Config = None,
    flags: options.ServerFlags,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from midstream_server.cli import serve as command

    raise typer.Exit(outcome(lambda: command.serve(config, flags)))


@app.command("config")
@options.takes_server_flags
def show_config(
    *,
    config: options.Config = None,
    flags: options.ServerFlags,
    as_json: options.Json = False,
) -> None:
    """Show the settings that 'serve' would run with, and where each comes from."""
    from midstream_server.cli import serve as command

    raise typer.Exit(outcome(lambda: command.show_config(config, flags, as_json)))


@app.command()
@options.takes_server_flags
def doctor(
    *,
    config: options.Config = None,
    flags: options.ServerFlags,
    as_json: options.Json = False,
) -> None:
    """Say what is wrong where 'serve' would run, and what to do about it."""
    from midstream_server.cli import doctor as command

    raise typer.Exit(outcome(lambda: command.doctor(config, flags, json_output=as_json)))


@app.command()
def demo(
    prompt: Annotated[str | None, typer.Option(metavar="TEXT", help="What to ask the model.")] = None,
) -> None:
    """Stop a real model midstream, and keep its text."""
    from midstream_server.cli import demo as command

    raise typer.Exit(outcome(lambda: command.demo(prompt)))


@app.command()
def health(
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    service: Annotated[str, typer.Option(metavar="NAME", help="A service. Default: the server as a whole.")] = "",
    tls_name: options.TlsName = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 3.0,
    as_json: options.Json = False,
) -> None:
    """Ask a server whether it serves (grpc.health.v1); exit 0 if so."""
    from midstream_server.cli import health as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.health(at, service, timeout, tls_name=tls_name, json_output=as_json)))


# --- Runs -------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    model: options.ModelName,
    prompt: options.Prompt = None,
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    label: options.Labels = None,
    run_id: options.NewRunId = None,
    conversation: options.Conversation = None,
    on_conflict: options.OnConflict = None,
    supersede: options.Supersede = False,
    queue: options.Queue = False,
    reject: options.Reject = False,
    on_detach: options.OnDetach = None,
    grace: options.Grace = None,
    continue_from: options.ContinueFrom = None,
    parent: options.Parent = None,
    first_token_limit: options.FirstTokenLimit = None,
    idle_limit: options.IdleLimit = None,
    time_limit: options.TimeLimit = None,
    queue_limit: options.QueueLimit = None,
    token_limit: options.TokenLimit = None,
    retention: options.Retention = None,
    option: options.ProviderOptions = None,
    as_json: options.Json = False,
) -> None:
    """Generate, and show it as it comes. Ctrl-C stops the run and keeps its text; twice quits at once."""
    from midstream_server.cli import requests
    from midstream_server.cli import run as command

    policy = options.only_conflict(on_conflict, reject=reject, supersede=supersede, queue=queue)
    at = Endpoint(server, tls_ca, tls_cert)
    text = command.read_prompt(prompt)
    chosen = requests.generate_options(
        parameters=requests.sampling(max_tokens, temperature, top_p, seed, stop),
        limits=requests.limits(first_token_limit, idle_limit, time_limit, queue_limit, token_limit),
        on_detach=on_detach,
        grace=options.duration(grace, "--grace"),
        on_conflict=policy,
        labels=options.pairs(label, "--label"),
        retention=options.duration(retention, "--retention"),
        provider_options=options.json_pairs(option, "--option"),
    )
    chosen |= {"run_id": run_id, "system": system, "conversation_id": conversation}
    chosen |= {"continue_from": continue_from, "parent_run_id": parent}
    raise typer.Exit(outcome(lambda: command.run(at, model, text, chosen, json_output=as_json), at))


@app.command("continue")
def continue_run(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run to go on with.", show_default=False)],
    prompt: options.Prompt = None,
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Default: the run's own.")] = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    new_run_id: options.NewRunId = None,
    as_json: options.Json = False,
) -> None:
    """Go on with the text of an ended run, in a new run. Shows the new text only.

    Prompts are never stored: give the same PROMPT again, and the same --system. If it takes more flags than there are
    here, use 'midstream run' with --continue-from. Not every provider can go on with a text.
    """
    from midstream_server.cli import requests
    from midstream_server.cli import run as command

    at = Endpoint(server, tls_ca, tls_cert)
    text = command.read_prompt(prompt)
    chosen = requests.generate_options(parameters=requests.sampling(max_tokens, temperature, top_p, seed, stop))
    chosen |= {"run_id": new_run_id, "system": system}
    raise typer.Exit(outcome(lambda: command.continue_run(at, run_id, model, text, chosen, json_output=as_json), at))


@app.command()
def watch(
    run_id: options.RunId,
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    after: Annotated[int | None, typer.Option(metavar="N", min=0, help="Begin after this sequence.")] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Begin with all so far at once.")] = False,
    claim: Annotated[bool, typer.Option("--claim", help="Leaving (Ctrl-C) stops the run.")] = False,
    as_json: options.Json = False,
) -> None:
    """Follow a run that exists, from its beginning. Leaving does not stop it."""
    if snapshot and after is not None:
        raise typer.BadParameter("--after and --snapshot say different things")
    from midstream_server.cli import run as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(
        outcome(
            lambda: command.watch(at, run_id, after=after, snapshot=snapshot, claim=claim, json_output=as_json),
            at,
        )
    )


@app.command()
def get(
    run_id: options.RunId,
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    wait: Annotated[bool, typer.Option("--wait", help="Answer when the run has ended.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Only what is safe to send back to a model.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show a run and its text, whole or partial."""
    from midstream_server.cli import runs as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.get(at, run_id, wait=wait, replay=replay, json_output=as_json), at))


@app.command("list")
def list_runs(
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    state: Annotated[options.State | None, typer.Option(help="Only in this state.", show_default=False)] = None,
    conversation: Annotated[str, typer.Option(metavar="ID", help="Only of this conversation.")] = "",
    parent: Annotated[str, typer.Option(metavar="RUN_ID", help="Only children of this run.")] = "",
    label: options.Labels = None,
    as_json: options.Json = False,
) -> None:
    """List runs, newest first."""
    from midstream_server.cli import runs as command

    filters = command.Filters(
        state=state, conversation_id=conversation, parent_run_id=parent, labels=options.pairs(label, "--label")
    )
    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.list_runs(at, filters, limit=limit, json_output=as_json), at))


@app.command()
def cancel(
    run_id: options.RunId,
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For people who look later.")] = "",
    wait: Annotated[
        str | None, typer.Option(metavar="DURATION", help="For the ending, at most 60s; 0s: not at all. Default: 5s.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Stop a run, and show what it made."""
    from midstream_server.cli import runs as command

    seconds = options.duration(wait, "--wait")
    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.cancel(at, run_id, reason=reason, wait=seconds, json_output=as_json), at))


@app.command()
def delete(
    run_id: options.RunId,
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    as_json: options.Json = False,
) -> None:
    """Delete what an ended run made."""
    from midstream_server.cli import runs as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.delete(at, run_id, json_output=as_json), at))


@app.command()
def models(
    server: options.Server = DEFAULT_SERVER,
    tls_ca: options.TlsCa = None,
    tls_cert: options.TlsCert = None,
    as_json: options.Json = False,
) -> None:
    """List the models that can be named."""
    from midstream_server.cli import runs as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.models(at, json_output=as_json), at))
