"""The scenarios and the upstream's scripts, as `scenarios.json` says them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from midstream_simulator import Script
from midstream_simulator.steps import parse_script

KINDS = ("client", "raw")
_FILE = Path(__file__).with_name("scenarios.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One of them; `seconds` is its time limit."""

    name: str
    shows: str
    kinds: Sequence[str]
    seconds: float
    steps: Sequence[str]


@cache
def scenarios() -> Sequence[Scenario]:
    """All of them, in order."""
    return tuple(Scenario(**each) for each in _read()["scenarios"])


@cache
def scripts() -> Mapping[str, Script]:
    """What the upstream answers, by the model's name."""
    return {name: parse_script([_expanded(step) for step in steps]) for name, steps in _read()["scripts"].items()}


def _read() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return read


def _expanded(step: dict[str, Any]) -> dict[str, Any]:
    """Writes out pieces that are given as a repetition."""
    match step.get("pieces"):
        case {"repeat": str(text), "times": int(times), "pieces": int(count)}:
            return step | {"pieces": [text * times] * count}
        case _:
            return step
