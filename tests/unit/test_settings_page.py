"""The page that lists the settings, held against them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from midstream_server.cli.serve import _toml, tree_of
from midstream_server.settings import (
    LocalSettings,
    LogSettings,
    ProfileSettings,
    ReplicaSettings,
    Settings,
    TlsSettings,
    UpstreamSettings,
)
from midstream_server.upstreams.profiles import PRESETS

PAGE = (Path(__file__).parents[2] / "docs/settings.md").read_text()
TABLES = {"local": LocalSettings, "log": LogSettings, "tls": TlsSettings, "replica": ReplicaSettings}
ELSEWHERE = {*TABLES, "upstreams", "models"}


def rows(heading: str) -> dict[str, str]:
    """The rows of the table with this heading: name to what stands in the second column."""
    _, _, table = PAGE.partition(f"| {heading} |")
    lines = table.split("\n\n")[0].splitlines()[2:]
    columns = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3]] for line in lines]
    return {name: second for names, second in columns for name in re.findall(r"`([^`]+)`", names)}


def defaults(table: BaseModel, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each setting with its default as the page shows it: in TOML, or nothing."""
    tree = tree_of(table)
    for name in type(table).model_fields:
        yield f"{prefix}{name}", f"`{_toml(tree[name])}`" if name in tree else ""


def test_the_page_has_every_setting_of_the_top_level_with_its_default():
    """One that is added, taken away or changed is on the page, or not."""
    assert rows("on the top level") == {name: value for name, value in defaults(Settings()) if name not in ELSEWHERE}


def test_the_page_has_every_setting_of_the_tables_with_its_default():
    """By its dotted name."""
    expected = {name: value for prefix, table in TABLES.items() for name, value in defaults(table(), f"{prefix}.")}

    assert rows("table") == expected


def test_the_page_has_every_setting_of_an_upstream_with_its_default():
    """`api_key` is never written, and the dialect has no default."""
    expected = dict(defaults(UpstreamSettings(dialect="local")))

    assert rows("under `upstreams.NAME`") == {
        name: "" if name == "dialect" else value
        for name, value in expected.items()
        if name not in ("api_key", "profile")
    }


def test_the_page_has_every_setting_of_a_profile():
    """Their defaults are the dialect's and the preset's."""
    assert set(rows("under `upstreams.NAME.profile`")) == set(ProfileSettings.model_fields)


@pytest.mark.parametrize("name", ["dialect", "preset"])
def test_the_page_has_every_dialect_and_every_preset(name: str):
    """What may be written there."""
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
    allowed = set(re.findall(r"`([^`]+)`", row)[1:])

    dialects = set(UpstreamSettings.model_fields["dialect"].annotation.__args__)  # type: ignore[union-attr]  # a Literal
    assert allowed == (dialects if name == "dialect" else set(PRESETS))
