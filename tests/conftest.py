"""What every test shares. Tests of the recorded provider streams carry the marker `recorded`."""

import asyncio
import os
from pathlib import Path

import hypothesis
import pytest

from recordings import ABSENT, recordings_folder

# `make test ARGS=--hypothesis-profile=thorough` looks longer.
hypothesis.settings.register_profile("midstream", deadline=None, print_blob=True, max_examples=50)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=1000)
hypothesis.settings.load_profile("midstream")


def pytest_configure() -> None:
    """Says that the main thread has no loop, or looptime asks for one around every plain test, and nobody closes it."""
    asyncio.set_event_loop(None)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: many tests wait for a server or a timer."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects what needs the recorded streams where there are none; in CI their absence is an error."""
    recorded = [item for item in items if item.get_closest_marker("recorded")]
    if recorded and recordings_folder() is None:
        config.hook.pytest_deselected(items=recorded)
        items[:] = [item for item in items if item not in recorded]
        config.stash[_DESELECTED] = len(recorded)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Says why tests of the recorded streams were left out."""
    if count := config.stash.get(_DESELECTED, 0):
        terminalreporter.write_line(f"{count} tests deselected: {ABSENT}", yellow=True)


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of recorded provider streams; only for tests marked `recorded`."""
    folder = recordings_folder()
    assert folder is not None, "a test that reads the recorded streams must be marked `recorded`"
    return folder


_DESELECTED = pytest.StashKey[int]()
