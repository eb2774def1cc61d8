"""A real server, killed with SIGKILL under load, keeps what it has shown (P1, P2).

CI kills it 20 times, `make crash` 200 times.
"""

from pathlib import Path

import pytest

from crash.harness import crash

KILLS = 3
SEED = 20_261_122


@pytest.mark.timeout(120)
async def test_killed_servers_keep_what_they_have_shown(tmp_path: Path):
    """Whatever readers and callers saw of a run is a prefix of what is left, and its ending is what it was."""
    report = await crash(tmp_path, KILLS, SEED)

    assert report.kills == KILLS
    assert report.reader_bytes > 0
    assert {"COMPLETED", "CANCELLED", "FAILED"} >= set(report.endings) != set()
