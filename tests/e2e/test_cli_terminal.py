"""`midstream run` on a terminal: what Ctrl-C does, and what a person sees."""

import signal
from pathlib import Path

import pytest

from command_line import Terminal, midstream, serving
from midstream_simulator import Gate, Reasoning, Role, Simulator, Stall, Text, streamed


@pytest.fixture
async def simulator():
    """A model that does what it is told."""
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def server(simulator: Simulator, tmp_path: Path):
    """A server in front of it."""
    config = tmp_path / "midstream.toml"
    config.write_text(
        f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{tmp_path}/runs.db'\nlocal.enabled = false\nlog.level = 'error'\n"
        f"drain_seconds = 0\n[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
    )
    async with serving(config) as server:
        yield server


async def test_control_c_stops_the_run_and_keeps_and_shows_its_text(server, simulator):
    """Once: cancelled, with state, usage and id; exit 130; the upstream closed; the text is there to get."""
    simulator.play("long", [Role(), Text(["Once upon ", "a time"]), Gate("said"), Stall()])
    terminal = Terminal()
    await terminal.start("run", "sim/long", "x", "--run-id", "story", "--server", server.address)
    await terminal.shows("Once upon a time")

    terminal.press_control_c()
    code = await terminal.ends()
    await (await simulator.received()).closed()

    assert code == 130
    assert "Once upon a time" in terminal.output
    ending = terminal.output.rsplit("Once upon a time", 1)[1]
    assert "cancelled, as asked" in ending
    assert "tokens out" in ending
    assert "run story" in ending
    assert "Traceback" not in terminal.output
    kept = await midstream("get", "story", "--server", server.address)
    assert kept.out == "Once upon a time"
    assert kept.err.startswith("cancelled, as asked")


async def test_control_c_before_the_first_token_stops_the_run_too(server, simulator):
    """There is nothing to keep, and nothing goes on."""
    simulator.play("silent", [Stall()])
    terminal = Terminal()
    await terminal.start("run", "sim/silent", "x", "--server", server.address)
    request = await simulator.received()

    terminal.press_control_c()
    code = await terminal.ends()
    await request.closed()

    assert code == 130
    assert "cancelled, as asked" in terminal.output


async def test_control_c_twice_quits_at_once_though_the_server_is_frozen(server, simulator):
    """The first asks a server that cannot answer; the second does not wait for it."""
    simulator.play("long", [Role(), Text(["so far"]), Stall()])
    terminal = Terminal()
    await terminal.start("run", "sim/long", "x", "--server", server.address)
    await terminal.shows("so far")
    server.process.send_signal(signal.SIGSTOP)
    try:
        terminal.press_control_c()
        await terminal.shows("^C")
        await terminal.takes(signal.SIGINT)
        terminal.press_control_c()
        code = await terminal.ends()
    finally:
        server.process.send_signal(signal.SIGCONT)

    assert code == 130


async def test_on_a_terminal_reasoning_is_dim_and_a_line_ends_the_answer(server, simulator):
    """For a person: what is thinking, what is the answer, and how it ended."""
    simulator.play("think", streamed(Reasoning(["I think. "]), Text(["I answer."])))
    terminal = Terminal()

    await terminal.start("run", "sim/think", "x", "--server", server.address)
    code = await terminal.ends()

    assert code == 0
    assert "\x1b[2mI think. \x1b[0m\nI answer.\n" in terminal.output
    assert "completed · " in terminal.output


async def test_control_characters_of_a_model_cannot_command_the_terminal(server, simulator):
    """They are shown as pictures; in a pipe they are what they were."""
    simulator.play("evil", streamed(Text(["\x1b]0;owned\x07 red \x1b[31m", "\ttab\n"])))
    terminal = Terminal()

    await terminal.start("run", "sim/evil", "x", "--server", server.address)
    await terminal.ends()
    piped = await midstream("run", "sim/evil", "x", "--server", server.address)

    assert "␛]0;owned␇ red ␛[31m" in terminal.output
    assert "\ttab\n" in terminal.output
    assert piped.out == "\x1b]0;owned\x07 red \x1b[31m\ttab\n"


async def test_lists_are_tables_on_a_terminal(server, simulator):
    """With a heading, which a pipe does not get."""
    await midstream("run", "sim/count-2", "x", "--run-id", "tabled", "--server", server.address)
    terminal = Terminal()

    await terminal.start("list", "--server", server.address)
    await terminal.ends()

    assert "state" in terminal.output
    assert "tabled" in terminal.output
    assert "state" not in (await midstream("list", "--server", server.address)).out
