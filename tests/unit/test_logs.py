"""Logs are worth less than runs: what cannot be written is lost, and nobody hears of it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
LOG_AND_GO_ON = """
import structlog
from midstream_server.logs import configure_logs
configure_logs("info", "console")
for number in range(2000):
    structlog.get_logger().error("store.unavailable", number=number)
print("went on")
"""

TRY_AGAIN = """
import stamina
from midstream_server.errors import UpstreamUnavailable
from midstream_server.logs import configure_logs
from midstream_server.upstreams.http_errors import AttemptFailed
configure_logs("info", "json")
for attempt in stamina.retry_context(on=AttemptFailed, attempts=2, wait_initial=0.001, wait_jitter=0):
    with attempt:
        if attempt.num == 1:
            failure = UpstreamUnavailable("their words", upstream="mine", http_status=503)
            raise AttemptFailed(failure, retryable=True)
"""


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_log_that_cannot_be_written_is_lost_and_nothing_else():
    """A disk that is full under the log file, too, does not make the engine fail."""
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", LOG_AND_GO_ON], stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )

    assert done.stdout == "went on\n"


def test_log_whose_reader_has_gone_is_lost_and_nothing_else():
    """A pipe that was closed, as by `2>&1 | head`."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOG_AND_GO_ON], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert isinstance(process.stderr, io.TextIOWrapper)
    process.stderr.close()
    assert process.stdout is not None
    said = process.stdout.read()
    process.stdout.close()
    process.wait()

    assert said == "went on\n"


def test_what_is_tried_again_is_told_once_and_not_in_the_providers_words():
    """Whose failure it was, which, and how long until the next attempt."""
    done = subprocess.run([sys.executable, "-c", TRY_AGAIN], capture_output=True, text=True, check=True)

    line = json.loads(done.stderr)
    assert (line["event"], line["level"], line["attempt"]) == ("upstream.retry", "info", 1)
    assert line["error"] == "mine UPSTREAM_UNAVAILABLE 503"
    assert 0 <= line["wait_seconds"] < 1
