"""The command line: what each command takes. What a command does is loaded when it runs, so that help is quick."""

import os
from typing import Annotated, Any

import typer

from midstream_server.cli import options
from midstream_server.cli.endpoint import Endpoint
from midstream_server.cli.options import (
    DEFAULT_SERVER,
    Config,
    Conflict,
    Detach,
    Json,
    Labels,
    Listen,
    LogLevel,
    MaxTokens,
    NewRunId,
    Prompt,
    RunId,
    Seed,
    Server,
    State,
    Stop,
    Store,
    System,
    Temperature,
    TlsCa,
    TlsCert,
    TlsName,
    TopP,
)
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
def serve(
    config: Config = None,
    listen: Listen = None,
    workers: Annotated[
        int | None, typer.Option(help="So many processes on this address, over a valkey:// store.")
    ] = None,
    store: Store = None,
    durability: Annotated[str | None, typer.Option(metavar="LEVEL", help="process, disk or replica.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="How long a stopping server lets runs finish.")] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Listen beyond this machine without authentication.")
    ] = None,
    local: Annotated[
        bool | None, typer.Option("--local/--no-local", help="Offer the small model on this machine.")
    ] = None,
    log_level: LogLevel = None,
    log_format: Annotated[str | None, typer.Option(metavar="FORMAT", help="console or json.")] = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    from midstream_server.cli import serve as command

    flags = {
        "listen": listen,
        "workers": workers,
        "store": store,
        "durability": durability,
        "drain_seconds": drain_seconds,
        "insecure": insecure,
        "local.enabled": local,
        "log.level": log_level,
        "log.format": log_format,
    }
    raise typer.Exit(outcome(lambda: command.serve(config, flags)))


@app.command("config")
def show_config(config: Config = None, listen: Listen = None, store: Store = None, as_json: Json = False) -> None:
    """Show the settings in effect, and where each comes from."""
    from midstream_server.cli import serve as command

    flags = {"listen": listen, "store": store}
    raise typer.Exit(outcome(lambda: command.show_config(config, flags, as_json)))


@app.command()
def doctor(config: Config = None, listen: Listen = None, store: Store = None, as_json: Json = False) -> None:
    """Say what is wrong, and what to do about it."""
    from midstream_server.cli import doctor as command

    flags = {"listen": listen, "store": store}
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
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    service: Annotated[str, typer.Option(metavar="NAME", help="A service. Default: the server as a whole.")] = "",
    tls_name: TlsName = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.")] = 3.0,
    as_json: Json = False,
) -> None:
    """Ask a server whether it serves (grpc.health.v1); exit 0 if so."""
    from midstream_server.cli import health as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.health(at, service, timeout, tls_name=tls_name, json_output=as_json)))


# --- Runs -------------------------------------------------------------------------------------------------------------


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="UPSTREAM/NAME or an alias.", show_default=False)],
    prompt: Prompt = None,
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    label: Labels = None,
    run_id: NewRunId = None,
    conversation: Annotated[str | None, typer.Option(metavar="ID", help="The conversation it belongs to.")] = None,
    on_conflict: Annotated[
        Conflict | None, typer.Option(help="If other runs of the conversation are live.", show_default=False)
    ] = None,
    supersede: Annotated[bool, typer.Option("--supersede", help="Stop those, then run: abort and rephrase.")] = False,
    queue: Annotated[bool, typer.Option("--queue", help="Wait for those to end, then run.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Do not run if there are any.")] = False,
    on_detach: Annotated[
        Detach | None, typer.Option(help="If nobody follows the run any more. Default: grace.", show_default=False)
    ] = None,
    grace: Annotated[str | None, typer.Option(metavar="DURATION", help="With --on-detach grace. Default: 10s.")] = None,
    continue_from: Annotated[str | None, typer.Option(metavar="RUN_ID", help="Go on with this run's text.")] = None,
    parent: Annotated[str | None, typer.Option(metavar="RUN_ID", help="The run that causes this one.")] = None,
    first_token_limit: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Fail if no output has come by then.")
    ] = None,
    idle_limit: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Fail if output pauses for so long.")
    ] = None,
    time_limit: Annotated[str | None, typer.Option(metavar="DURATION", help="Cancel after so long.")] = None,
    queue_limit: Annotated[str | None, typer.Option(metavar="DURATION", help="Wait so long for its turn.")] = None,
    token_limit: Annotated[int | None, typer.Option(help="Cancel after so many output tokens.")] = None,
    retention: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it is kept; 0s: a minute.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=JSON", help="Added to the provider's request; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Generate, and show it as it comes. Ctrl-C stops the run and keeps its text; twice quits at once."""
    policy = options.only_conflict(on_conflict, reject=reject, supersede=supersede, queue=queue)
    from midstream_server.cli import run as command
    from midstream_server.cli.requests import generate_options

    text = command.read_prompt(prompt)
    chosen: dict[str, Any] = {
        "run_id": run_id,
        "system": system,
        "conversation_id": conversation,
        "continue_from": continue_from,
        "parent_run_id": parent,
        "labels": options.pairs(label, "--label"),
        "retention": options.duration(retention, "--retention"),
        "provider_options": options.json_pairs(option, "--option"),
    }
    chosen |= generate_options(
        parameters={
            "max_output_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
        },
        limits={
            "first_token": options.duration(first_token_limit, "--first-token-limit"),
            "idle": options.duration(idle_limit, "--idle-limit"),
            "total": options.duration(time_limit, "--time-limit"),
            "queue": options.duration(queue_limit, "--queue-limit"),
            "output_tokens": token_limit,
        },
        on_detach=on_detach,
        grace=options.duration(grace, "--grace"),
        on_conflict=policy,
    )
    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.run(at, model, text, chosen, json_output=as_json), server))


@app.command("continue")
def continue_run(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run to go on with.", show_default=False)],
    prompt: Prompt = None,
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Default: the run's own.")] = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    new_run_id: NewRunId = None,
    as_json: Json = False,
) -> None:
    """Go on with the text of an ended run, in a new run. Shows the new text only.

    Prompts are never stored: give the same PROMPT again, and the same --system. If it takes more flags than there are
    here, use 'midstream run' with --continue-from. Not every provider can go on with a text.
    """
    from midstream_server.cli import run as command
    from midstream_server.cli.requests import generate_options

    text = command.read_prompt(prompt)
    parameters = {
        "max_output_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
    }
    chosen = generate_options(parameters=parameters) | {"run_id": new_run_id, "system": system}
    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(
        outcome(lambda: command.continue_run(at, run_id, model, text, chosen, json_output=as_json), server)
    )


@app.command()
def watch(
    run_id: RunId,
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    after: Annotated[int | None, typer.Option(metavar="N", min=0, help="Begin after this sequence.")] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Begin with all so far at once.")] = False,
    claim: Annotated[bool, typer.Option("--claim", help="Leaving (Ctrl-C) stops the run.")] = False,
    as_json: Json = False,
) -> None:
    """Follow a run that exists, from its beginning. Leaving does not stop it."""
    if snapshot and after is not None:
        raise typer.BadParameter("--after and --snapshot say different things")
    from midstream_server.cli import run as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(
        outcome(
            lambda: command.watch(at, run_id, after=after, snapshot=snapshot, claim=claim, json_output=as_json),
            server,
        )
    )


@app.command()
def get(
    run_id: RunId,
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    wait: Annotated[bool, typer.Option("--wait", help="Answer when the run has ended.")] = False,
    replay: Annotated[bool, typer.Option("--replay", help="Only what is safe to send back to a model.")] = False,
    as_json: Json = False,
) -> None:
    """Show a run and its text, whole or partial."""
    from midstream_server.cli import runs as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.get(at, run_id, wait=wait, replay=replay, json_output=as_json), server))


@app.command("list")
def list_runs(
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many.")] = 50,
    state: Annotated[State | None, typer.Option(help="Only in this state.", show_default=False)] = None,
    conversation: Annotated[str, typer.Option(metavar="ID", help="Only of this conversation.")] = "",
    parent: Annotated[str, typer.Option(metavar="RUN_ID", help="Only children of this run.")] = "",
    label: Labels = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    from midstream_server.cli import runs as command

    filters = command.Filters(
        state=state, conversation_id=conversation, parent_run_id=parent, labels=options.pairs(label, "--label")
    )
    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.list_runs(at, filters, limit=limit, json_output=as_json), server))


@app.command()
def cancel(
    run_id: RunId,
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For people who look later.")] = "",
    wait: Annotated[
        str | None, typer.Option(metavar="DURATION", help="For the ending, at most 60s; 0s: not at all. Default: 5s.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stop a run, and show what it made."""
    from midstream_server.cli import runs as command

    seconds = options.duration(wait, "--wait")
    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(
        outcome(lambda: command.cancel(at, run_id, reason=reason, wait=seconds, json_output=as_json), server)
    )


@app.command()
def delete(
    run_id: RunId,
    server: Server = DEFAULT_SERVER,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    as_json: Json = False,
) -> None:
    """Delete what an ended run made."""
    from midstream_server.cli import runs as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.delete(at, run_id, json_output=as_json), server))


@app.command()
def models(
    server: Server = DEFAULT_SERVER, tls_ca: TlsCa = None, tls_cert: TlsCert = None, as_json: Json = False
) -> None:
    """List the models that can be named."""
    from midstream_server.cli import runs as command

    at = Endpoint(server, tls_ca, tls_cert)
    raise typer.Exit(outcome(lambda: command.models(at, json_output=as_json), server))
