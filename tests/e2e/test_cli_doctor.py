"""`midstream doctor`: each of its findings, by making it true."""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from midstream_server import app
from midstream_server.cli import checks
from midstream_server.cli.checks import Finding, Level
from midstream_server.cli.doctor import examine
from midstream_server.settings import Settings
from midstream_server.upstreams import local_engine

UPSTREAM = "[upstreams.it]\ndialect = 'openai-chat'\n"


@pytest.fixture
def config(tmp_path: Path):
    """Writes a configuration with a store of its own, port 0 and no local model; later lines are added."""

    def write(lines: str = "", *, store: str | None = None, listen: str = "127.0.0.1:0", local: bool = False) -> Path:
        path = tmp_path / "midstream.toml"
        path.write_text(
            f"listen = '{listen}'\nstore = '{store or f'sqlite:///{tmp_path}/runs.db'}'\n"
            f"local.enabled = {str(local).lower()}\n{lines}"
        )
        return path

    return write


@pytest.fixture
def listener():
    """A socket that listens and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def finding(config: Path, subject: str, environment: dict[str, str] | None = None) -> Finding:
    """What the doctor says about one subject."""
    findings = await examine(config, {}, environment or {})
    return next(each for each in findings if each.subject == subject)


def address_of(listener: socket.socket) -> str:
    """HOST:PORT of a listening socket."""
    host, port = listener.getsockname()
    return f"{host}:{port}"


# --- As a command -----------------------------------------------------------------------------------------------------


def run_doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, without the variables of this environment."""
    return subprocess.run(
        [sys.executable, "-m", "midstream_server", "doctor", *arguments], env={}, capture_output=True, text=True
    )


def test_a_healthy_machine_gets_a_clean_bill_and_nothing_is_left_behind(config, listener, tmp_path):
    """Exit 0, a line per subject, and no store was made."""
    path = config(UPSTREAM + f"base_url = 'http://{address_of(listener)}'")

    done = run_doctor("--config", str(path))

    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    assert all(subject in done.stdout for subject in ("python", "settings", "listen", "store", "upstream it"))
    assert [each.name for each in tmp_path.iterdir()] == ["midstream.toml"]


def test_something_wrong_is_exit_1_with_advice_also_as_json(config, listener):
    """Scripts see what people see."""
    path = config(UPSTREAM + f"base_url = 'http://{address_of(listener)}'\napi_key_env = 'ABSENT_KEY'")

    text, as_json = run_doctor("-c", str(path)), run_doctor("-c", str(path), "--json")

    assert (text.returncode, as_json.returncode) == (1, 1)
    assert "✗ upstream it  the variable ABSENT_KEY is not set; put the key there" in text.stdout
    assert "1 problem" in text.stdout
    report = json.loads(as_json.stdout)
    assert report["healthy"] is False
    problem = next(each for each in report["findings"] if each["level"] == "problem")
    assert problem["subject"] == "upstream it"
    assert "ABSENT_KEY" in problem["message"]
    assert problem["advice"]


def test_a_port_that_is_taken_is_told_with_who_has_it(config, listener):
    """The process is named, so that one knows what to stop."""
    done = run_doctor("-c", str(config(listen=address_of(listener), lines=UPSTREAM + "base_url = 'http://127.0.0.1'")))

    assert done.returncode == 1
    assert f"the port of {address_of(listener)} is taken by process " in done.stdout
    assert "listen elsewhere" in done.stdout


async def test_a_server_that_takes_no_runs_is_a_problem(config):
    """It drains: it can still be called, and nobody can start anything."""
    settings = Settings.model_validate({"listen": "127.0.0.1:0", "store": "memory:", "local": {"enabled": False}})
    async with app.serving(settings) as server:
        path = config(listen=server.address)
        serving = await finding(path, "listen")

        await server.drain(0.0, asyncio.Event())
        draining = await finding(path, "listen")

    assert (serving.level, serving.message) == (Level.OK, f"a server is running at {server.address}")
    assert (draining.level, draining.message) == (
        Level.PROBLEM,
        f"a server is running at {server.address}, and takes no runs",
    )
    assert "server.draining" in draining.advice


def test_the_flags_of_serve_are_taken_and_named(config, tmp_path):
    """What it advises can be tried here before it is served."""
    done = run_doctor(
        "-c", str(config(local=True)), "--listen", "0.0.0.0:0", "--insecure", "--no-local", "--workers", "2"
    )

    assert f"from --insecure, --listen, --no-local, --workers, {tmp_path}/midstream.toml" in done.stdout
    assert "0.0.0.0:0 is free" in done.stdout
    assert f"2 workers cannot share sqlite:///{tmp_path}/runs.db" in done.stdout
    assert "local/smollm2" not in done.stdout
    assert "2 problems" in done.stdout


def test_warnings_are_counted_and_no_failure(config, listener):
    """All is not well, and a script goes on."""
    done = run_doctor("-c", str(config(UPSTREAM + f"base_url = 'http://{address_of(listener)}'", store="memory:")))

    assert done.returncode == 0
    assert done.stdout.splitlines()[-1] == "1 warning"


# --- Settings and machine ---------------------------------------------------------------------------------------------


async def test_invalid_settings_are_the_finding(config):
    """With the file and the key; the rest cannot be looked at."""
    path = config("drain_secs = 3")

    findings = await examine(path, {}, {})

    assert [each.subject for each in findings] == ["python", "settings"]
    assert findings[1].level == Level.PROBLEM
    assert findings[1].message.startswith(f"{path}: ")


async def test_no_upstream_at_all_is_a_problem(config):
    """A server that can serve nothing."""
    assert (await finding(config(), "upstreams")).level == Level.PROBLEM


def test_an_old_python_is_a_problem():
    """It would fail later, in other words."""
    found = checks.check_python((3, 10, 4))

    assert (found.level, found.message) == (Level.PROBLEM, "this is Python 3.10.4")
    assert checks.check_python((3, 11, 0)).level == Level.OK


async def test_an_address_that_this_machine_has_not_is_a_problem(config):
    """An address from another network (TEST-NET-1)."""
    found = await finding(config("insecure = true", listen="192.0.2.1:50051"), "listen")

    assert found.level == Level.PROBLEM
    assert "this machine has no address 192.0.2.1:50051" in found.message


# --- Store ------------------------------------------------------------------------------------------------------------


async def test_a_store_whose_folder_does_not_exist_is_a_problem(config, tmp_path):
    """With the command that makes it."""
    found = await finding(config(store=f"sqlite:///{tmp_path}/absent/runs.db"), "store")

    assert found.level == Level.PROBLEM
    assert "does not exist" in found.message
    assert found.advice == f"make it: mkdir -p {tmp_path}/absent"


async def test_a_store_whose_folder_cannot_be_written_is_a_problem(config):
    """Not even root can make a file in /proc."""
    found = await finding(config(store="sqlite:////proc/runs.db"), "store")

    assert found.level == Level.PROBLEM
    assert "the folder /proc cannot be written" in found.message


async def test_a_store_that_is_a_folder_is_a_problem(config, tmp_path):
    """A file is needed."""
    assert "is a folder" in (await finding(config(store=f"sqlite:///{tmp_path}"), "store")).message


async def test_a_damaged_store_is_a_problem(config, tmp_path):
    """It is told before the server refuses to start."""
    (tmp_path / "runs.db").write_bytes(b"this is no database, and long enough to be read as one" * 100)

    found = await finding(config(), "store")

    assert found.level == Level.PROBLEM
    assert "move" in found.advice


async def test_a_store_that_another_process_holds_is_told_with_who_holds_it(config, tmp_path):
    """The process is named."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLD, str(tmp_path / "runs.db"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"

    found = await finding(config(), "store")

    holder.stdin.close()
    await holder.wait()
    assert found.level == Level.PROBLEM
    assert f"is in use by process {holder.pid} (" in found.message
    assert (await finding(config(), "store")).level == Level.OK


async def test_a_store_in_memory_is_a_warning(config):
    """It works, and forgets."""
    assert (await finding(config(store="memory:"), "store")).level == Level.WARNING


async def test_a_disk_that_fills_is_a_warning_and_a_full_one_a_problem(config, monkeypatch, tmp_path):
    """While runs can still start, and when none can."""
    monkeypatch.setattr(checks, "LITTLE_SPACE", 2**62)
    nearly = await finding(config(), "store")
    monkeypatch.setattr(checks, "NO_SPACE", 2**62)

    full = await finding(config(), "store")

    assert nearly.level == Level.WARNING
    assert "MiB are free" in nearly.message
    assert (full.level, full.message) == (Level.PROBLEM, f"the disk of {tmp_path}/runs.db is full")


_HOLD = """
import asyncio, sys
from midstream_server.stores.sqlite import SqliteRunStore
async def hold():
    store = SqliteRunStore(sys.argv[1], durability="process")
    await store.open()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()
asyncio.run(hold())
"""


# --- Upstreams --------------------------------------------------------------------------------------------------------


async def test_an_upstream_where_nothing_listens_is_a_problem(config, listener):
    """The address is named."""
    address = address_of(listener)
    listener.close()

    found = await finding(config(UPSTREAM + f"base_url = 'http://{address}/v1'"), "upstream it")

    assert (found.level, found.message) == (Level.PROBLEM, f"nothing listens at {address}")


async def test_an_upstream_with_an_unknown_host_is_a_problem(config):
    """A name that is reserved for never existing."""
    found = await finding(config(UPSTREAM + "base_url = 'http://absent.invalid/v1'"), "upstream it")

    assert (found.level, found.message) == (Level.PROBLEM, "the host of absent.invalid:80 is unknown")


async def test_an_upstream_that_speaks_no_tls_is_a_problem(config):
    """https in base_url, plain http behind it."""

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        found = await finding(config(UPSTREAM + f"base_url = 'https://127.0.0.1:{port}'"), "upstream it")

    assert found.level == Level.PROBLEM
    assert "cannot be trusted" in found.message


async def test_an_upstream_that_does_not_answer_is_a_problem(config, listener, monkeypatch):
    """The connection opens, TLS never does."""
    monkeypatch.setattr(checks, "_CONNECT_SECONDS", 0.05)

    found = await finding(config(UPSTREAM + f"base_url = 'https://{address_of(listener)}'"), "upstream it")

    assert (found.level, found.message) == (Level.PROBLEM, f"{address_of(listener)} does not answer")


async def test_an_upstream_is_not_asked_for_anything(config):
    """The check opens a connection and sends no byte: it cannot cost a token."""
    received: list[bytes] = []
    left = asyncio.Event()

    async def record(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()
        left.set()

    async with await asyncio.start_server(record, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]

        found = await finding(config(UPSTREAM + f"base_url = 'http://127.0.0.1:{port}'"), "upstream it")
        await left.wait()

    assert found.level == Level.OK
    assert received == [b""]


async def test_a_key_that_is_missing_is_a_problem_of_its_upstream(config, listener):
    """Named by its variable; with the key all is well, and the key is nowhere to be seen."""
    path = config(UPSTREAM + f"base_url = 'http://{address_of(listener)}'\napi_key_env = 'IT_KEY'")

    missing = await finding(path, "upstream it")
    there = await examine(path, {}, {"IT_KEY": "very-secret"})

    assert (missing.level, missing.message) == (Level.PROBLEM, "the variable IT_KEY is not set; put the key there")
    assert all(each.level == Level.OK for each in there)
    assert "very-secret" not in str(there)


# --- The local model --------------------------------------------------------------------------------------------------


async def test_a_machine_that_can_run_the_local_model_is_well(config):
    """This one can: the tests of the model run on it."""
    assert (await finding(config(local=True), "local model")).level == Level.OK


async def test_absent_weights_are_a_problem(config, monkeypatch):
    """The model's file is not there."""
    monkeypatch.setattr(local_engine, "find_weights", lambda: None)

    found = await finding(config(local=True), "local model")

    assert found.level == Level.PROBLEM
    assert "weights" in found.message
    assert "not installed" in found.message
    assert "--no-local" in found.advice


async def test_a_processor_without_avx2_is_a_problem(config, monkeypatch):
    """The engine would die of an illegal instruction."""
    monkeypatch.setattr(local_engine, "_read_cpuinfo", lambda: "flags\t\t: fpu sse sse2 fma f16c bmi2\n")

    found = await finding(config(local=True), "local model")

    assert found.level == Level.PROBLEM
    assert "avx2" in found.message


def test_a_missing_system_library_is_a_problem():
    """The engine's package does not bring it."""
    found = checks.check_local(library="libabsent-for-sure.so.1")

    assert found.level == Level.PROBLEM
    assert "libabsent-for-sure.so.1 is missing" in found.message
