"""The commands against a real server and a simulated model, in pipes."""

import asyncio
import json
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import pytest_asyncio
from google.protobuf import json_format

from command_line import Server, command, environment, midstream, serving, started
from midstream.v1 import generation_service_pb2, run_pb2
from midstream_simulator import Cut, Finish, Gate, Role, Simulator, Stall, Text, ToolCall, streamed

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator():
    """A model that does what it is told."""
    async with Simulator() as simulator:
        yield simulator


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory):
    """A server in front of it."""
    config = tmp_path_factory.mktemp("server") / "midstream.toml"
    write_config(config, simulator)
    async with serving(config) as server:
        yield server


@pytest.fixture(autouse=True)
def forgetful(simulator: Simulator) -> None:
    """Each test begins with request 1."""
    simulator.forget()


def write_config(path: Path, simulator: Simulator) -> None:
    """A configuration with the simulator as `sim`."""
    path.write_text(
        f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{path.parent}/runs.db'\nlocal.enabled = false\ndrain_seconds = 1\n"
        f"log.level = 'error'\n[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\n"
    )


async def run(server: Server, *arguments: str, feed: str = ""):
    """`midstream run` on that server."""
    return await midstream("run", *arguments, "--server", server.address, feed=feed)


async def ask(server: Server, *arguments: str):
    """Any command on that server."""
    return await midstream(*arguments, "--server", server.address)


# --- run --------------------------------------------------------------------------------------------------------------


async def test_the_answer_alone_goes_to_a_pipe(server):
    """Byte for byte what the model said: no line end, no colour, no remark."""
    done = await run(server, "sim/echo", "Grüße, ça va? 🙂 two  spaces")

    assert (done.code, done.out, done.err) == (0, "Grüße, ça va? 🙂 two  spaces", "")


async def test_the_prompt_can_come_through_a_pipe(server, simulator):
    """With `-`, and with nothing."""
    dash = await run(server, "sim/echo", "-", feed="from the pipe")
    nothing = await run(server, "sim/echo", feed="from the pipe\n")

    assert dash.out == "from the pipe"
    assert nothing.code == 0
    assert simulator.requests[1].body["messages"][0]["content"] == "from the pipe\n"


async def test_every_delta_is_written_at_once(server, simulator):
    """A reader of the pipe sees a delta before the next one exists."""
    simulator.play("gated", streamed(Text(["first "]), Gate("later"), Text(["second"])))
    process = await started("run", "sim/gated", "x", "--server", server.address)
    assert process.stdout is not None

    first = await process.stdout.readexactly(6)
    request = await simulator.received()
    await request.reached("later")
    request.release("later")
    rest, _ = await process.communicate()

    assert (first, rest, process.returncode) == (b"first ", b"second", 0)


async def test_json_is_every_event_of_the_contract_one_on_a_line(server):
    """Started, deltas, finished: dense sequences, and the deltas add up to the message."""
    done = await run(server, "sim/count-5", "go", "--json", "--run-id", "as-json", "--label", "team=red")

    events = [json_format.Parse(line, run_pb2.RunEvent()) for line in done.out.splitlines()]
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds[0], kinds[-1], set(kinds[1:-1])) == ("started", "finished", {"delta"})
    covered = [n for each in events for n in range(each.first_sequence or each.sequence, each.sequence + 1)]
    assert covered == list(range(1, events[-1].sequence + 1))
    assert (events[0].started.run_id, events[-1].finished.run.labels["team"]) == ("as-json", "red")
    assert "".join(each.delta.text for each in events) == events[-1].finished.run.message.parts[0].text.text
    assert '"state":"RUN_STATE_COMPLETED"' in done.out.splitlines()[-1]
    assert done.err == ""


async def test_the_flags_reach_the_model_and_the_run(server, simulator):
    """Each flag is in the upstream's request, or in the run."""
    done = await run(
        server,
        *("sim/echo", "hello", "--system", "be brief", "--max-tokens", "7", "--temperature", "0.5", "--top-p", "0.9"),
        *("--seed", "3", "--stop", "END", "--stop", "FIN", "--option", 'logit_bias={"5": 1}', "--option", "user=me"),
        *("--run-id", "flags", "--label", "a=1", "--label", "b=2=3", "--conversation", "talk", "--parent", "above"),
        *("--retention", "90s", "--on-detach", "grace", "--grace", "7s", "--json"),
        *("--first-token-limit", "5s", "--idle-limit", "6s", "--time-limit", "1m", "--token-limit", "99"),
    )

    assert done.code == 0, done.err
    body = simulator.requests[0].body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert (body["max_completion_tokens"], body["temperature"], body["top_p"], body["seed"]) == (7, 0.5, 0.9, 3)
    assert (body["stop"], body["logit_bias"], body["user"]) == (["END", "FIN"], {"5": 1}, "me")
    started_event = json_format.Parse(done.out.splitlines()[0], run_pb2.RunEvent()).started
    assert started_event.on_detach.action == run_pb2.DetachPolicy.ACTION_GRACE
    assert started_event.on_detach.grace.seconds == 7
    limits = started_event.limits
    assert (limits.first_token.seconds, limits.idle.seconds, limits.total.seconds, limits.output_tokens) == (
        5,
        6,
        60,
        99,
    )
    assert started_event.retention.seconds == 90
    shown = json.loads((await ask(server, "get", "flags", "--json")).out)
    assert shown["labels"] == {"a": "1", "b": "2=3"}
    assert (shown["conversationId"], shown["parentRunId"]) == ("talk", "above")


async def test_the_same_run_id_again_shows_the_same_run(server, simulator):
    """One start, one bill."""
    first = await run(server, "sim/count-4", "go", "--run-id", "again")
    second = await run(server, "sim/count-4", "go", "--run-id", "again")

    assert first.out == second.out
    assert len(simulator.requests) == 1


async def test_a_failed_run_is_exit_1_with_its_partial_and_the_reason(server, simulator):
    """What had come is on standard output, the reason on standard error."""
    simulator.play("cut", [Role(), Text(["half an "]), Cut()])

    done = await run(server, "sim/cut", "x")

    assert (done.code, done.out) == (1, "half an ")
    assert done.err.startswith("failed: ")
    assert "(UPSTREAM_TRUNCATED)" in done.err
    assert len(done.err.splitlines()) == 1


async def test_reasoning_and_tool_calls_go_to_standard_error(server, simulator):
    """The answer on standard output stays the answer."""
    simulator.play("tool", streamed(ToolCall(['{"city": ', '"Paris"}'], id="c1", name="weather"), finish="tool_calls"))

    thought = await run(server, "sim/reason-3", "x")
    called = await run(server, "sim/tool", "x")

    assert (thought.code, thought.out) == (0, "Done.")
    assert thought.err != ""
    assert called.out == ""
    assert '→ weather({"city": "Paris"})' in called.err


async def test_a_run_that_its_time_limit_ends_is_exit_3(server, simulator):
    """Cancelled by a rule, not by Ctrl-C; the text is kept."""
    simulator.play("slow", [Role(), Text(["so far"]), Stall()])

    done = await run(server, "sim/slow", "x", "--time-limit", "300ms")

    assert (done.code, done.out) == (3, "so far")
    assert done.err.startswith("cancelled, its time was up")


async def test_sigterm_stops_the_run_and_keeps_its_text(server, simulator):
    """A supervisor that ends the command does not leave the meter running."""
    simulator.play("long", [Role(), Text(["so far"]), Gate("on"), Stall()])
    process = await started("run", "sim/long", "x", "--run-id", "termed", "--server", server.address)
    assert process.stdout is not None
    await process.stdout.readexactly(6)
    request = await simulator.received()

    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    await request.closed()

    assert process.returncode == 128 + signal.SIGTERM
    assert err.decode().startswith("cancelled, as asked")
    assert (await ask(server, "get", "termed")).out == "so far"


async def test_a_reader_that_leaves_the_pipe_stops_the_run_quietly(server, simulator, tmp_path):
    """`midstream run … | head`: no traceback, and the upstream is closed."""
    simulator.play("long", [Role(), Text(["line one\n"]), Gate("head has left"), Text(["line two\n"] * 3), Stall()])
    line = shlex.join(command("run", "sim/long", "x", "--run-id", "piped", "--server", server.address))
    shell = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f'{line} 2>"$1" | head -n 1; echo "${{PIPESTATUS[0]}}"',
        "bash",
        str(tmp_path / "errors"),
        stdout=subprocess.PIPE,
        env=environment(),
    )
    request = await simulator.received()
    assert shell.stdout is not None
    assert await shell.stdout.readline() == b"line one\n"

    request.release("head has left")
    await request.closed()
    rest, _ = await shell.communicate()

    assert rest == b"141\n"
    assert (tmp_path / "errors").read_text() == ""
    assert (await ask(server, "get", "piped", "--wait")).out == "line one\n" + "line two\n" * 3


# --- Refusals ---------------------------------------------------------------------------------------------------------


async def test_an_unknown_model_is_one_sentence_and_exit_1(server, simulator):
    """Nothing on standard output, no call of the model."""
    done = await run(server, "nobody/model", "x")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("midstream: ")
    assert "(MODEL_NOT_FOUND)" in done.err
    assert len(done.err.splitlines()) == 1
    assert simulator.requests == []


async def test_a_request_that_is_not_valid_names_the_field(server):
    """As the contract names it."""
    done = await run(server, "sim/echo", "x", "--temperature", "9")

    assert done.code == 1
    assert "parameters.temperature" in done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["run", "a/b", "x"], ["get", "x"], ["health"]])
async def test_no_server_is_one_sentence_and_exit_1(arguments):
    """At once, and with what to do."""
    begun = time.monotonic()

    done = await midstream(*arguments, "--server", "127.0.0.1:9")

    assert (done.code, done.out) == (1, "")
    assert "127.0.0.1:9" in done.err
    assert len(done.err.splitlines()) == 1
    assert time.monotonic() - begun < 8


# --- watch, get, list, cancel, delete, models, health -----------------------------------------------------------------


async def test_watch_shows_all_what_follows_a_sequence_or_a_snapshot(server, simulator):
    """The same text, whole or from the middle."""
    simulator.play("gated", streamed(Text(["first, "]), Gate("later"), Text(["second"])))
    owner = await started("run", "sim/gated", "x", "--run-id", "watched", "--server", server.address)
    assert owner.stdout is not None
    await owner.stdout.readexactly(7)
    seen = json.loads((await ask(server, "get", "watched", "--json")).out)["lastSequence"]
    (await simulator.received()).release("later")
    await owner.communicate()

    whole = await ask(server, "watch", "watched")
    later = await ask(server, "watch", "watched", "--after", seen)
    snapshot = await ask(server, "watch", "watched", "--snapshot")

    assert (whole.code, whole.out) == (0, "first, second")
    assert (later.code, later.out) == (0, "second")
    assert (snapshot.code, snapshot.out) == (0, "first, second")


async def owner_and_watcher(server: Server, run_id: str, *flags: str):
    """A run of `sim/long`, and one that watches it; both have seen `so far`."""
    owner = await started("run", "sim/long", "x", "--run-id", run_id, "--server", server.address)
    assert owner.stdout is not None
    assert await owner.stdout.readexactly(6) == b"so far"
    watcher = await started("watch", run_id, *flags, "--server", server.address)
    assert watcher.stdout is not None
    assert await watcher.stdout.readexactly(6) == b"so far"
    return owner, watcher


async def test_leaving_a_watch_does_not_stop_the_run(server, simulator):
    """Ctrl-C of an observer ends the observer."""
    simulator.play("long", [Role(), Text(["so far"]), Gate("on"), Text([" and on"]), Finish(), Stall()])
    owner, watcher = await owner_and_watcher(server, "observed")
    request = await simulator.received()

    watcher.send_signal(signal.SIGINT)
    await watcher.communicate()
    request.release("on")
    out, _ = await owner.communicate()

    assert watcher.returncode == 130
    assert (owner.returncode, out) == (0, b" and on")


async def test_a_watch_with_a_claim_stops_the_run_when_it_is_left(server, simulator):
    """The claim is what a stream of Generate has."""
    simulator.play("long", [Role(), Text(["so far"]), Stall()])
    owner, watcher = await owner_and_watcher(server, "claimed", "--claim")

    watcher.send_signal(signal.SIGINT)
    await watcher.communicate()
    await owner.communicate()

    assert (watcher.returncode, owner.returncode) == (130, 3)


async def test_cancel_stops_a_run_from_elsewhere_and_shows_what_it_made(server, simulator):
    """The text on standard output, the ending on standard error; the one that followed ends with 3."""
    simulator.play("long", [Role(), Text(["so far"]), Stall()])
    owner = await started("run", "sim/long", "x", "--run-id", "stopped", "--server", server.address)
    assert owner.stdout is not None
    await owner.stdout.readexactly(6)

    done = await ask(server, "cancel", "stopped", "--reason", "enough", "--wait", "3s")
    _, err = await owner.communicate()
    again = await ask(server, "cancel", "stopped", "--json")

    assert (done.code, done.out) == (0, "so far")
    assert done.err.startswith("cancelled, as asked")
    assert owner.returncode == 3
    assert err.decode().startswith("cancelled, as asked")
    response = json_format.Parse(again.out, generation_service_pb2.CancelResponse())
    assert response.outcome == generation_service_pb2.CancelResponse.OUTCOME_CANCELLED
    assert response.run.cancel.reason == "enough"


async def test_a_cancel_that_comes_first_is_remembered(server, simulator):
    """And the run that then comes calls no model."""
    early = await ask(server, "cancel", "not-yet")
    late = await run(server, "sim/echo", "x", "--run-id", "not-yet")

    assert early.code == 0
    assert "no run not-yet has started yet" in early.err
    assert (late.code, late.out) == (3, "")
    assert simulator.requests == []


async def test_get_waits_for_the_end_if_asked(server, simulator):
    """`--wait` answers when the run has ended; without it at once, with the partial."""
    simulator.play("gated", streamed(Text(["first "]), Gate("later"), Text(["second"])))
    owner = await started("run", "sim/gated", "x", "--run-id", "waited", "--server", server.address)
    assert owner.stdout is not None
    await owner.stdout.readexactly(6)

    now = await ask(server, "get", "waited")
    waiting = await started("get", "waited", "--wait", "--server", server.address)
    (await simulator.received()).release("later")
    out, _ = await waiting.communicate()
    await owner.communicate()

    assert (now.out, now.err.split(" ")[0]) == ("first ", "running")
    assert out == b"first second"


async def test_get_replay_leaves_out_what_cannot_be_sent_back(server, simulator):
    """Half a tool call is in the run, and not in its replay."""
    simulator.play("cut", [Role(), Text(["I look. "]), ToolCall(['{"city": '], id="c1", name="weather"), Cut()])
    await run(server, "sim/cut", "x", "--run-id", "half")

    streamed_run = json.loads((await ask(server, "get", "half", "--json")).out)
    replay = json.loads((await ask(server, "get", "half", "--replay", "--json")).out)

    assert [next(iter(part)) for part in streamed_run["message"]["parts"]] == ["text", "toolCall"]
    assert [next(iter(part)) for part in replay["message"]["parts"]] == ["text"]


async def test_list_filters_and_is_tab_separated_in_a_pipe(server):
    """Newest first; --json gives whole runs."""
    for number in range(3):
        await run(server, "sim/count-2", "go", "--run-id", f"listed-{number}", "--label", "group=listed")

    plain = await ask(server, "list", "--label", "group=listed", "--state", "completed", "-n", "2")
    as_json = await ask(server, "list", "--label", "group=listed", "--json")
    none = await ask(server, "list", "--label", "group=listed", "--state", "failed")

    rows = [line.split("\t") for line in plain.out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["listed-2", "completed", "sim/count-2"],
        ["listed-1", "completed", "sim/count-2"],
    ]
    assert [json.loads(line)["runId"] for line in as_json.out.splitlines()] == ["listed-2", "listed-1", "listed-0"]
    assert (none.code, none.out) == (0, "")


async def test_delete_removes_what_a_run_made(server):
    """It is gone afterwards, and said so."""
    await run(server, "sim/echo", "x", "--run-id", "deleted")

    deleted = await ask(server, "delete", "deleted")
    gone = await ask(server, "get", "deleted")

    assert (deleted.code, deleted.out) == (0, "")
    assert gone.code == 1
    assert "(RUN_EXPIRED)" in gone.err


async def test_models_lists_what_can_be_named(server, simulator):
    """One on a line in a pipe, as JSON if asked."""
    simulator.play("my-model", streamed(Text(["x"])))

    plain = await ask(server, "models")
    as_json = json.loads((await ask(server, "models", "--json")).out)

    assert "sim/my-model\tsim\topenai-chat" in plain.out.splitlines()
    assert "sim/my-model" in [model["name"] for model in as_json["models"]]


async def test_health_is_exit_0_while_it_serves(server):
    """Also for the service by its name; an unknown service is exit 1."""
    whole = await ask(server, "health")
    service = await ask(server, "health", "--service", "midstream.v1.GenerationService", "--json")
    unknown = await ask(server, "health", "--service", "nonsense")

    assert (whole.code, whole.out) == (0, "SERVING\n")
    assert json.loads(service.out)["serving"] is True
    assert unknown.code == 1


async def test_the_server_variable_names_the_server(server):
    """MIDSTREAM_SERVER, so that nobody types --server twice."""
    done = await midstream("health", extra={"MIDSTREAM_SERVER": server.address})

    assert done.code == 0
