"""What a scenario measured, and what it may be at most."""

from collections.abc import Sequence
from dataclasses import dataclass

from crash.witness import Broken


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of everything. `seed` decides what is random."""

    seed: int
    trials: int
    kills: int


def times(
    what: str, seconds: Sequence[float], *, p50_at_most: float | None = None, at_most: float | None = None
) -> str:
    """A line on times.

    Raises:
        Broken: they are longer than they may be.
    """
    ordered = sorted(seconds)
    middle, longest = ordered[len(ordered) // 2], ordered[-1]
    line = f"{what}: n {len(ordered)}, p50 {_shown(middle)}, maximum {_shown(longest)}"
    if p50_at_most is not None:
        line += f", p50 at most {_shown(p50_at_most)}"
    if at_most is not None:
        line += f", allowed {_shown(at_most)}"
    if (p50_at_most is not None and middle > p50_at_most) or (at_most is not None and longest > at_most):
        raise Broken(line)
    return line


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
