"""The page for operators, held against what is logged."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
LOGGED = re.compile(r'_log\.(\w+)\(\s*"([\w.]+)"')
NAMED = re.compile(r"`([a-z_]+\.[a-z_]+)`")
FILES = {"midstream.db"}


def logged() -> dict[str, str]:
    """Every event in the code, with its level."""
    sources = (ROOT / "service/midstream_server").rglob("*.py")
    return {event: level for path in sources for level, event in LOGGED.findall(path.read_text())}


def test_every_event_on_the_page_is_logged():
    """An alert on one that was renamed would never fire."""
    named = set(NAMED.findall(PAGE)) - FILES

    assert len(named) > 15
    assert named - set(logged()) == set()


def test_every_event_that_is_worth_a_look_is_on_the_page():
    """All from a warning on; what broke by a bug of ours is there by its ending."""
    worth = {event for event, level in logged().items() if level in ("warning", "error", "exception")}

    assert len(worth) > 20
    assert {event for event in worth if not event.endswith(("broken", "loop.error"))} - set(
        NAMED.findall(PAGE)
    ) == set()


def test_the_facts_of_an_ending_are_on_the_page():
    """Who counts the lines knows what to count."""
    edge = re.search(
        r"def _edge\(.*?return \{(.*?)\}", (ROOT / "service/midstream_server/engine/run_task.py").read_text(), re.S
    )
    assert edge is not None
    facts = set(re.findall(r'"(\w+)":', edge[1]))
    sentence = PAGE.partition("`run.finished` has ")[2].partition("\n\n")[0]

    assert set(re.findall(r"`([a-z_]+)`", sentence)) == facts
