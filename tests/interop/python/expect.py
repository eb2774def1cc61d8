"""What is expected, and how it is told if it did not come."""

import binascii
import os
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from midstream.v1 import run_pb2 as wire


class Unexpected(Exception):
    """Something else came."""


def expect(actual: object, wanted: object, what: str) -> None:
    """Compares.

    Raises:
        Unexpected: they differ.
    """
    if actual != wanted:
        raise Unexpected(f"{what}: expected {_shown(wanted)}, got {_shown(actual)}")


def new_id(scenario: str) -> str:
    """A run id of its own."""
    return f"{scenario}-{binascii.hexlify(os.urandom(4)).decode()}"


def text_of(run: wire.Run) -> str:
    """The text of a run's text parts."""
    return "".join(part.text.text for part in run.message.parts)


def expect_run(run: wire.Run, state: int, text: str, **fields: Any) -> None:
    """Checks a run's state, its text, and the fields that are named.

    Raises:
        Unexpected: one differs.
    """
    expect(wire.RunState.Name(run.state), wire.RunState.Name(state), f"state of {run.run_id} ({run.error.message})")  # type: ignore[arg-type]  # a number of this enum
    expect(text_of(run), text, "text")
    for name, wanted in fields.items():
        actual = getattr(run, name)
        expect(list(actual) if isinstance(wanted, list) else actual, wanted, name)


@dataclass(frozen=True, slots=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode | None
    reason: str
    fields: Sequence[tuple[str, str]] = ()


class CallFailed(Exception):
    """A call failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"the call failed: {failure}")
        self.failure = failure


async def refused(work: Awaitable[object], code: grpc.StatusCode, reason: str) -> Failure:
    """The failure of a call.

    Raises:
        Unexpected: it succeeded, or failed otherwise.
    """
    try:
        answer = await work
    except CallFailed as error:
        expect((error.failure.code, error.failure.reason), (code, reason), "failure")
        return error.failure
    raise Unexpected(f"failure: expected {code} ({reason}), got the answer {_shown(answer)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 150 else f"{text[:100]}… ({len(text)} characters)"
