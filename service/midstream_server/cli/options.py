"""What several commands take, and how it is read."""

import enum
import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

DEFAULT_SERVER = "127.0.0.1:50051"

Server = Annotated[
    str,
    typer.Option("--server", metavar="HOST:PORT", envvar="MIDSTREAM_SERVER", help="The server to talk to."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line, with the names of the contract.")]
RunId = Annotated[str, typer.Argument(metavar="RUN_ID", help="The run's id.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A label; may be repeated.", show_default=False),
]


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
