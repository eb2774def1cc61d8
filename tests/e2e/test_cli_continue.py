"""`midstream continue`, the conversation flags of `midstream run`, and a watch from the end, against a real server."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from command_line import Done, Server, midstream, serving, started
from midstream_simulator import Cut, Finish, Gate, Role, Simulator, Stall, Text, streamed

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    """A model that does what it is told."""
    async with Simulator() as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server in front of it: `sim` can go on with a text, `plain` cannot."""
    config = tmp_path_factory.mktemp("server") / "midstream.toml"
    write_config(config, simulator.base_url)
    async with serving(config) as server:
        yield server


@pytest.fixture(autouse=True)
def forgetful(simulator: Simulator) -> None:
    """Each test begins with request 1."""
    simulator.forget()


def write_config(path: Path, base_url: str) -> None:
    """A configuration with the simulator under two names."""
    upstream = f"dialect = 'openai-chat'\nbase_url = '{base_url}'\n"
    path.write_text(
        f"listen = '127.0.0.1:0'\nstore = 'memory:'\nlocal.enabled = false\ndrain_seconds = 1\nlog.level = 'error'\n"
        f"[upstreams.plain]\n{upstream}"
        f"[upstreams.sim]\n{upstream}profile.continue_prefix = 'assistant_prefill'\n"
    )


async def ask(server: Server, *arguments: str) -> Done:
    """Any command on that server."""
    return await midstream(*arguments, "--server", server.address)


async def cut_run(server: Server, simulator: Simulator, run_id: str, model: str = "sim/story") -> None:
    """A run that was cut after `Once upon `."""
    simulator.play("story", [Role(), Text(["Once upon "]), Cut()])
    await ask(server, "run", model, "Tell me a story.", "--run-id", run_id)
    simulator.forget()


async def test_continue_shows_the_new_text_and_sends_the_old_one_as_the_prefix(server, simulator):
    """With the model of the run, the prompt and the flags that are given; only what is new goes to the pipe."""
    await cut_run(server, simulator, "cut")
    simulator.play("story", streamed(Text(["a time."])))

    flags = ("--system", "be brief", "--max-tokens", "9", "--run-id", "rest")
    done = await ask(server, "continue", "cut", "Tell me a story.", *flags)

    run = json.loads((await ask(server, "get", "rest", "--json")).out)
    body = simulator.requests[0].body
    assert (done.code, done.out, done.err) == (0, "a time.", "")
    assert [(each["role"], each["content"]) for each in body["messages"]] == [
        ("system", "be brief"),
        ("user", "Tell me a story."),
        ("assistant", "Once upon "),
    ]
    assert body["max_completion_tokens"] == 9
    assert (run["continuedFrom"], run["model"], run["message"]["parts"][0]["text"]["text"]) == (
        "cut",
        "sim/story",
        "a time.",
    )


async def test_continue_with_another_model_and_the_same_flag_of_run_are_the_same(server, simulator):
    """`--model` names it; `run --continue-from` is the long form."""
    await cut_run(server, simulator, "cut-once")
    simulator.play("other", streamed(Text(["a time."])))

    short = await ask(server, "continue", "cut-once", "Go on.", "--model", "sim/other")
    long = await ask(server, "run", "sim/other", "Go on.", "--continue-from", "cut-once")

    assert short.out == long.out == "a time."
    assert simulator.requests[0].body == simulator.requests[1].body


async def test_what_cannot_be_continued_is_one_sentence_and_exit_1(server, simulator):
    """An upstream that has no way to do it, and a run that nobody knows; no model is called."""
    await cut_run(server, simulator, "cut-plain", "plain/story")

    unsupported = await ask(server, "continue", "cut-plain", "Tell me a story.")
    unknown = await ask(server, "continue", "nobody", "Tell me a story.")

    assert (unsupported.code, unsupported.out) == (unknown.code, unknown.out) == (1, "")
    assert "(CONTINUE_UNSUPPORTED)" in unsupported.err
    assert "(RUN_NOT_FOUND)" in unknown.err
    assert len(unsupported.err.splitlines()) == len(unknown.err.splitlines()) == 1
    assert simulator.requests == []


async def test_the_conversation_flags_reject_wait_and_supersede(server, simulator):
    """Abort and rephrase in one command; a run that waits is served in its turn."""
    simulator.play("long", [Role(), Text(["so far"]), Stall()])
    simulator.play("short", [Role(), Text(["done"]), Gate("end"), Finish()])
    talk = ("--conversation", "talk", "--server", server.address)
    first = await started("run", "sim/long", "x", *talk, "--run-id", "talk-1")
    assert first.stdout is not None
    await first.stdout.readexactly(6)

    refused = await midstream("run", "sim/short", "x", *talk, "--reject")
    second = await started("run", "sim/short", "x", *talk, "--supersede", "--run-id", "talk-2")
    request = await simulator.received(2)
    await request.reached("end")
    waiting = await started("run", "sim/short", "x", *talk, "--queue", "--queue-limit", "30s", "--run-id", "talk-3")
    request.release("end")
    (await simulator.received(3)).release("end")
    out, _ = await waiting.communicate()
    await second.communicate()
    _, err = await first.communicate()
    runs = [json.loads((await ask(server, "get", f"talk-{number}", "--json")).out) for number in (1, 2, 3)]

    assert refused.code == 1
    assert "(CONVERSATION_BUSY)" in refused.err
    assert (first.returncode, second.returncode, waiting.returncode, out) == (3, 0, 0, b"done")
    assert err.decode().startswith("cancelled, a later run took its place")
    assert (runs[0]["supersededByRunId"], runs[1]["supersededRunIds"]) == ("talk-2", ["talk-1"])
    assert "supersededRunIds" not in runs[2]


async def test_a_watch_from_the_end_says_how_the_run_ended(server, simulator):
    """At once: everything was seen before, and the exit code is that of the run."""
    await cut_run(server, simulator, "seen")
    last = json.loads((await ask(server, "get", "seen", "--json")).out)["lastSequence"]

    done = await ask(server, "watch", "seen", "--after", last)
    as_json = await ask(server, "watch", "seen", "--after", last, "--json")
    beyond = await ask(server, "watch", "seen", "--after", str(int(last) + 1))

    assert (done.code, done.out) == (1, "")
    assert "(UPSTREAM_TRUNCATED)" in done.err
    assert [json.loads(line)["finished"]["run"]["runId"] for line in as_json.out.splitlines()] == ["seen"]
    assert (beyond.code, beyond.out) == (1, "")
    assert "(CURSOR_AHEAD)" in beyond.err
