"""`midstream demo`: the first thing that a stranger sees, with the real model."""

import subprocess
import sys

from command_line import environment, midstream

ELSEWHERE = """
import sys
from midstream_server.cli import demo
from midstream_server.upstreams import local
{change}
sys.argv = ["midstream", "demo"]
from midstream_server.__main__ import main
main()
"""


def demo_where(change: str) -> subprocess.CompletedProcess[str]:
    """The demo where something is different."""
    code = ELSEWHERE.format(change=change)
    quiet = {
        "GRPC_VERBOSITY": "NONE",
        "GRPC_ENABLE_FORK_SUPPORT": "false",
    }  # As `main` sets it, but for the imports here.
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(quiet))


async def test_the_demo_stops_a_real_model_midway_and_everything_holds():
    """Exit 0, real text, five promises kept, nothing on standard error."""
    done = await midstream("demo")

    assert (done.code, done.err) == (0, ""), done.out
    assert done.out.count("  ✓ ") == 5
    assert "✗" not in done.out
    assert "byte for byte what had streamed" in done.out
    assert any(f"so {tokens} after the stop" in done.out for tokens in (0, 1, 2, 3))
    story = [line for line in done.out.splitlines() if line.startswith("  │ ")]
    assert len("".join(story)) > 100


def test_a_machine_that_cannot_run_the_model_is_told_so_plainly():
    """One sentence, where to find out more, exit 1."""
    done = demo_where('local.find_problem = lambda: "the local model needs a processor with avx2"')

    assert done.returncode == 1
    assert done.stderr == "midstream: the local model needs a processor with avx2; 'midstream doctor' says more\n"


def test_a_promise_that_is_not_kept_is_exit_1():
    """Here the model ends by itself before anybody could stop it."""
    done = demo_where("demo.MAX_OUTPUT_TOKENS = 3")

    assert done.returncode == 1
    assert "✗ the model finished before it could be stopped" in done.stdout
    assert done.stderr.startswith("midstream: a promise was not kept: ")
    assert "It all held" not in done.stdout
