"""What several commands take, and how it is read."""

import enum
import functools
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_SERVER = "127.0.0.1:50051"

ServerFlags = Mapping[str, Any]
"""Flags of `serve` by the settings that they stand over; None: not given."""

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="A TOML file. Default: what MIDSTREAM_CONFIG names."),
]
Listen = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 picks a free one.")]
Store = Annotated[
    str | None, typer.Option(metavar="STORE", help="memory:, sqlite:///path or valkey://host:port/database.")
]
Server = Annotated[
    str,
    typer.Option("--server", metavar="HOST:PORT", envvar="MIDSTREAM_SERVER", help="The server to talk to."),
]
TlsCa = Annotated[
    str | None,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        envvar="MIDSTREAM_TLS_CA",
        help="Speak TLS; trust the authorities in this file, or 'system' for those of this machine.",
    ),
]
TlsCert = Annotated[
    str | None,
    typer.Option(
        "--tls-cert",
        metavar="FILE",
        envvar="MIDSTREAM_TLS_CERT",
        help="Speak TLS; show the certificate in this file, which also holds its key.",
    ),
]
TlsName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", envvar="MIDSTREAM_TLS_NAME", help="The name in the server's certificate, if not the address's."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, with the names of the contract.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's id.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A label; may be repeated.", show_default=False),
]
Prompt = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT", help="What to ask; '-' or nothing reads it from a pipe.", show_default=False),
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="Instructions for the model.")]
MaxTokens = Annotated[int | None, typer.Option(help="The provider's limit of output tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 to 2.")]
TopP = Annotated[float | None, typer.Option(help="More than 0, at most 1.")]
Seed = Annotated[int | None, typer.Option(help="The same seed, the same answer, where the provider can.")]
Stop = Annotated[list[str] | None, typer.Option(metavar="TEXT", help="End the answer here; may be repeated.")]
NewRunId = Annotated[
    str | None, typer.Option("--run-id", metavar="ID", help="Of the new run. Makes a repeat attach to the same run.")
]

ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="UPSTREAM/NAME or an alias.", show_default=False)]


class Conflict(enum.StrEnum):
    """What a run does when others of its conversation are live."""

    ALLOW = "allow"
    REJECT = "reject"
    SUPERSEDE = "supersede"
    QUEUE = "queue"


class Detach(enum.StrEnum):
    """What becomes of a run that nobody follows any more."""

    CANCEL = "cancel"
    CONTINUE = "continue"
    GRACE = "grace"


class State(enum.StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


# --- Of `serve`, and of what looks at it beforehand -------------------------------------------------------------------

Workers = Annotated[int | None, typer.Option(help="So many processes on this address, over a valkey:// store.")]
Durability = Annotated[str | None, typer.Option(metavar="LEVEL", help="process, disk or replica.")]
DrainSeconds = Annotated[float | None, typer.Option(help="How long a stopping server lets runs finish.")]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Listen beyond this machine without authentication.")]
Local = Annotated[bool | None, typer.Option("--local/--no-local", help="Offer the small model on this machine.")]
LogLevel = Annotated[str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(metavar="FORMAT", help="console or json.")]

# --- Of `run` ---------------------------------------------------------------------------------------------------------

Conversation = Annotated[str | None, typer.Option(metavar="ID", help="The conversation it belongs to.")]
OnConflict = Annotated[
    Conflict | None, typer.Option(help="If other runs of the conversation are live.", show_default=False)
]
Supersede = Annotated[bool, typer.Option("--supersede", help="Stop those, then run: abort and rephrase.")]
Queue = Annotated[bool, typer.Option("--queue", help="Wait for those to end, then run.")]
Reject = Annotated[bool, typer.Option("--reject", help="Do not run if there are any.")]
OnDetach = Annotated[
    Detach | None, typer.Option(help="If nobody follows the run any more. Default: grace.", show_default=False)
]
Grace = Annotated[str | None, typer.Option(metavar="DURATION", help="With --on-detach grace. Default: 10s.")]
ContinueFrom = Annotated[str | None, typer.Option(metavar="RUN_ID", help="Go on with this run's text.")]
Parent = Annotated[str | None, typer.Option(metavar="RUN_ID", help="The run that causes this one.")]
FirstTokenLimit = Annotated[str | None, typer.Option(metavar="DURATION", help="Fail if no output has come by then.")]
IdleLimit = Annotated[str | None, typer.Option(metavar="DURATION", help="Fail if output pauses for so long.")]
TimeLimit = Annotated[str | None, typer.Option(metavar="DURATION", help="Cancel after so long.")]
QueueLimit = Annotated[str | None, typer.Option(metavar="DURATION", help="Wait so long for its turn.")]
TokenLimit = Annotated[int | None, typer.Option(help="Cancel after so many output tokens.")]
Retention = Annotated[str | None, typer.Option(metavar="DURATION", help="How long it is kept; 0s: a minute.")]
ProviderOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=JSON", help="Added to the provider's request; may be repeated."),
]

# --- How they are read ------------------------------------------------------------------------------------------------


def server_flags(
    *,
    listen: Listen = None,
    workers: Workers = None,
    store: Store = None,
    durability: Durability = None,
    drain_seconds: DrainSeconds = None,
    insecure: Insecure = None,
    local: Local = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> ServerFlags:
    """The flags of `serve`, by the settings that they stand over."""
    return {
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


def takes_server_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the flags of `serve`, before its own; it gets them together, as `flags`."""
    shared = inspect.signature(server_flags).parameters
    own = [each for each in inspect.signature(command).parameters.values() if each.name != "flags"]

    @functools.wraps(command)
    def whole(**given: Any) -> None:
        flags = server_flags(**{name: given.pop(name) for name in shared})
        command(flags=flags, **given)

    whole.__signature__ = inspect.Signature([*shared.values(), *own])  # type: ignore[attr-defined]
    return whole


def only_conflict(named: Conflict | None, *, reject: bool, supersede: bool, queue: bool) -> Conflict | None:
    """What `--on-conflict`, or the flag that is short for it, says."""
    flags = ((Conflict.REJECT, reject), (Conflict.SUPERSEDE, supersede), (Conflict.QUEUE, queue))
    chosen = {policy for policy, is_given in ((named, named is not None), *flags) if is_given}
    if len(chosen) > 1:
        raise typer.BadParameter("--on-conflict, --reject, --supersede and --queue say different things")
    return chosen.pop() if chosen else None


def duration(text: str | None, flag: str) -> float | None:
    """Seconds of a flag such as `30s`; None if it was not given."""
    from midstream_server.settings import parse_duration

    if text is None:
        return None
    try:
        return float(str(parse_duration(text)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None


def pairs(items: Sequence[str] | None, flag: str) -> dict[str, str]:
    """`KEY=VALUE` texts as a mapping."""
    found: dict[str, str] = {}
    for item in items or ():
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"must be KEY=VALUE, not '{item}'", param_hint=flag)
        found[key] = value
    return found


def json_pairs(items: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """`KEY=JSON` texts as a mapping; what is not JSON is taken as text."""
    found: dict[str, Any] = {}
    for key, value in pairs(items, flag).items():
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
