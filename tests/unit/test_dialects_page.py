"""What the page on dialects says of provider_metadata, against what the hand-written streams tell."""

import re
from pathlib import Path

import pytest

from dialect_table import ROWS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "dialects.md"


def _documented() -> dict[str, set[str]]:
    """The names of the facts of each dialect; one that ends with a dot stands for all that begin with it."""
    section = PAGE.read_text().partition("## What is beside the message\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return {dialect.strip(" `"): set(re.findall(r"`([^`]+)`", names)) for dialect, names in rows}


def test_every_dialect_is_on_the_page():
    """None is left out, and none is there that is not."""
    assert set(_documented()) == set(ROWS)


@pytest.mark.parametrize("dialect", ROWS)
def test_every_fact_that_a_stream_tells_is_on_the_page(dialect: str):
    """A caller finds out there what may be in provider_metadata."""
    row, documented = ROWS[dialect], _documented()[dialect]
    told = {name for path in row.folder.iterdir() for name in row.parse(path.read_bytes()).metadata}

    assert told, "no stream tells a fact"
    assert {name for name in told if not {name, name.partition(".")[0] + "."} & documented} == set()
