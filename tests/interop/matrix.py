"""The result, for people: scenarios down, runners across."""

from collections.abc import Iterator, Sequence

from interop.runners import Column
from interop.scenarios import Scenario

_WIDTH = 500


def lines(columns: Sequence[Column], wanted: Sequence[Scenario]) -> Iterator[str]:
    """The matrix, then what went wrong."""
    names = max([len(each.name) for each in wanted], default=0)
    widths = [max(len(column.name), 9) for column in columns]
    yield " " * names + "".join(f"  {column.name:>{width}}" for column, width in zip(columns, widths, strict=True))
    for scenario in wanted:
        cells = (f"  {_cell(column, scenario):>{width}}" for column, width in zip(columns, widths, strict=True))
        yield f"{scenario.name:<{names}}" + "".join(cells)
    if any(column.connections for column in columns):
        cells = ("+".join(map(str, column.connections)) for column in columns)
        row = (f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        yield f"{'(connections)':<{names}}" + "".join(row)
    for column in columns:
        yield from _failures(column)


def _cell(column: Column, scenario: Scenario) -> str:
    for result in column.results:
        if result.scenario == scenario.name:
            return f"{result.milliseconds} ms" if result.ok else "FAILED"
    return "-"


def _failures(column: Column) -> Iterator[str]:
    failed = [each for each in column.results if not each.ok]
    for result in failed:
        yield f"\nFAILED  {column.name}: {result.scenario} ({result.milliseconds} ms)\n  {result.detail[:_WIDTH]}"
    if failed and column.errors.strip():
        yield f"\n{column.name}, the last words on standard error (the runner's, then the server's):"
        yield from (f"  {line}" for line in column.errors.splitlines())
