"""What the command line refuses before it sends anything."""

import pytest
from typer.testing import CliRunner

from midstream_server.cli.commands import app


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "sim/echo", "x", "--retention", "soon"],
        ["run", "sim/echo", "x", "--label", "novalue"],
        ["run", "sim/echo", "x", "--supersede", "--on-conflict", "queue"],
        ["run", "sim/echo", "x", "--supersede", "--queue"],
        ["run", "sim/echo", "x", "--reject", "--on-conflict", "allow"],
        ["run", "sim/echo", "x", "--grace", "5s", "--on-detach", "cancel"],
        ["run", "sim/echo", "x", "--max-tokens", "-1"],
        ["run", "sim/echo", "x", "--no-such-flag"],
        ["run", "sim/echo"],
        ["continue", "x"],
        ["continue", "x", "hi", "--max-tokens", "-1"],
        ["watch", "x", "--after", "1", "--snapshot"],
        ["watch", "x", "--after", "-1"],
        ["list", "--state", "asleep"],
        ["cancel"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_2_and_calls_nobody(arguments):
    """Told before anything is sent: there is no server at all here."""
    done = CliRunner().invoke(app, arguments)

    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error" in done.stderr
