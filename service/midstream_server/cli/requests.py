"""What the flags of `midstream run` ask for, as the client takes it."""

from collections.abc import Mapping
from typing import Any

import typer

from midstream.v1 import generation_service_pb2, run_pb2
from midstream_client import ConversationPolicy
from midstream_server.cli.options import Conflict, Detach


def generate_options(
    *,
    parameters: Mapping[str, Any],
    limits: Mapping[str, Any] | None = None,
    on_detach: Detach | None = None,
    grace: float | None = None,
    on_conflict: Conflict | None = None,
) -> dict[str, Any]:
    """The options of `Client.generate`; only what was asked for."""
    options: dict[str, Any] = {}
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
