"""What the flags of `midstream run` ask for, as the client takes it."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client import ConversationPolicy
from midstream_server.cli.options import Conflict, Detach, duration


def sampling(
    max_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    stop: Sequence[str] | None,
) -> dict[str, Any]:
    """The flags that say how to sample, by the contract's names."""
    return {
        "max_output_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop,
    }


def limits(
    first_token: str | None, idle: str | None, total: str | None, queue: str | None, output_tokens: int | None
) -> dict[str, Any]:
    """The flags that say when a run must end, by the contract's names."""
    return {
        "first_token": duration(first_token, "--first-token-limit"),
        "idle": duration(idle, "--idle-limit"),
        "total": duration(total, "--time-limit"),
        "queue": duration(queue, "--queue-limit"),
        "output_tokens": output_tokens,
    }


def generate_options(
    *,
    parameters: Mapping[str, Any],
    limits: Mapping[str, Any] | None = None,
    on_detach: Detach | None = None,
    grace: float | None = None,
    on_conflict: Conflict | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The options of `Client.generate`; only what was asked for. `others` have the same name and form there."""
    options: dict[str, Any] = {**others}
    if given := _given(parameters):
        options["parameters"] = _parameters(given)
    if given := _given(limits or {}):
        options["limits"] = given
    if on_conflict is not None:
        options["on_conflict"] = ConversationPolicy[on_conflict.upper()]
    if (policy := _detach_policy(on_detach, grace)) is not None:
        options["on_detach"] = policy
    return options


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != []}


def _parameters(given: Mapping[str, Any]) -> generation_service_pb2.GenerationParameters:
    message = generation_service_pb2.GenerationParameters()
    for name, value in given.items():
        try:
            if name == "stop":
                message.stop.extend(value)
            else:
                setattr(message, name, value)
        except ValueError:
            raise typer.BadParameter(f"{name.replace('_', ' ')} cannot be {value}") from None
    return message


def _detach_policy(on_detach: Detach | None, grace: float | None) -> run_pb2.DetachPolicy | float | None:
    if grace is not None and on_detach not in (None, Detach.GRACE):
        raise typer.BadParameter("--grace goes with --on-detach grace", param_hint="--grace")
    match on_detach:
        case Detach.CANCEL:
            return run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_CANCEL)
        case Detach.CONTINUE:
            return run_pb2.DetachPolicy(action=run_pb2.DetachPolicy.ACTION_CONTINUE)
    return grace
