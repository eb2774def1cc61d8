"""`midstream serve` and `midstream config`, and how quickly help comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import environment, midstream, serving, started

LOADED_FOR_HELP = """
import contextlib, io, sys
heavy = ("grpc", "google.protobuf", "pydantic", "httpx", "aiohttp", "apsw", "rich")
from midstream_server.__main__ import main
sys.argv = ["midstream", "--help"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print([name for name in heavy if name in sys.modules])
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a key."""
    path = tmp_path / "midstream.toml"
    path.write_text(
        f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{tmp_path}/runs.db'\nlocal.enabled = false\n"
        "[upstreams.groq]\ndialect = 'openai-chat'\nbase_url = 'http://127.0.0.1:9/v1'\napi_key_env = 'A_KEY'\n"
        "[models.fast]\nroute = ['groq/some-model']\n"
    )
    return path


async def test_serve_says_where_it_listens_and_ends_well_on_sigterm(config):
    """Port 0 became a port, health is good, SIGTERM is exit 0 (which `serving` checks)."""
    async with serving(config, extra={"A_KEY": "x"}) as server:
        done = await midstream("health", "--server", server.address)

        assert not server.address.endswith(":0")
        assert done.code == 0


async def test_flags_win_over_the_file_for_the_server_that_runs(config, tmp_path):
    """The store of the flag is the one that is made."""
    async with serving(config, "--store", f"sqlite:///{tmp_path}/other.db", extra={"A_KEY": "x"}):
        pass

    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "runs.db").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--listen", "0.0.0.0:0"], "--insecure"),
        (["--config", "/nowhere/midstream.toml"], "cannot read the configuration /nowhere/midstream.toml"),
        (["--store", "postgres://x"], "--store: store: must be one of memory:, sqlite:///path"),
        (["--drain-seconds", "-1"], "--drain-seconds: drain_seconds: must be greater than or equal to 0"),
        (["--insecure", "--listen", "absent.invalid:1"], "listen: the host of absent.invalid:1 is unknown; listen on "),
    ],
)
async def test_a_configuration_that_cannot_work_is_exit_2_with_the_reason(arguments, expected):
    """Nothing is started, and nothing is said on standard output."""
    done = await midstream("serve", *arguments)

    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert "Traceback" not in done.err


async def test_a_port_that_is_taken_is_one_sentence(config):
    """Said before it claims to listen."""
    async with serving(config, extra={"A_KEY": "x"}) as server:
        done = await midstream("serve", "--listen", server.address, "--store", "memory:", "--no-local")

    assert (done.code, done.out) == (2, "")
    assert f"the port of {server.address} is taken by process {server.process.pid} (" in done.err
    assert "stop it, or listen elsewhere" in done.err
    assert len(done.err.splitlines()) == 1


async def test_a_store_that_is_in_use_is_one_sentence_and_exit_1(config):
    """Two servers never share a file."""
    async with serving(config, extra={"A_KEY": "x"}):
        done = await midstream("serve", "--config", str(config), extra={"A_KEY": "x"})

    assert (done.code, done.out) == (1, "")
    assert "another process" in done.err
    assert "STORE_LOCKED" in done.err
    assert "Traceback" not in done.err


async def test_a_missing_key_is_told_when_the_server_starts(config):
    """The other upstreams work all the same."""
    process = await started("serve", "--config", str(config))
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"midstream listening on ")

    process.terminate()
    _, err = await process.communicate()

    assert process.returncode == 0
    assert "upstreams.groq: the variable A_KEY is not set" in err.decode()


async def test_config_shows_what_is_in_effect_and_from_where_without_keys(config):
    """As TOML with comments, which can be used as a configuration again."""
    extra = {"A_KEY": "very-secret", "MIDSTREAM_LOG__LEVEL": "debug"}

    done = await midstream("config", "--config", str(config), "--listen", "127.0.0.1:7", extra=extra)

    assert done.code == 0
    lines = {line.split("#")[0].strip(): line.split("#")[-1].strip() for line in done.out.splitlines() if "#" in line}
    assert lines['listen = "127.0.0.1:7"'] == "--listen"
    assert lines['level = "debug"'] == "MIDSTREAM_LOG__LEVEL"
    assert lines["drain_seconds = 30.0"] == "default"
    assert lines['api_key_env = "A_KEY"'] == f"{config}; the key is set"
    assert lines['route = ["groq/some-model"]'] == str(config)
    assert "very-secret" not in done.out + done.err


async def test_what_config_shows_is_a_configuration(config, tmp_path):
    """Read again it gives the same settings."""
    shown = await midstream("config", "--config", str(config), extra={"A_KEY": "x"})
    again = tmp_path / "again.toml"
    again.write_text(shown.out)

    first = json.loads((await midstream("config", "--config", str(config), "--json", extra={"A_KEY": "x"})).out)
    second = json.loads((await midstream("config", "--config", str(again), "--json", extra={"A_KEY": "x"})).out)

    assert first["settings"] == second["settings"]


async def test_without_a_configuration_the_usual_variables_enable_upstreams():
    """A key in the environment is enough, and `local` is there."""
    done = await midstream("config", "--json", extra={"OPENAI_API_KEY": "very-secret", "OLLAMA_HOST": "127.0.0.1"})

    upstreams = json.loads(done.out)["settings"]["upstreams"]
    assert upstreams["openai"]["api_key_env"] == "OPENAI_API_KEY"
    assert upstreams["ollama"]["base_url"].startswith("http://127.0.0.1:11434")
    assert upstreams["local"]["dialect"] == "local"
    assert "very-secret" not in done.out


def test_help_loads_nothing_heavy():
    """So that it comes at once."""
    done = subprocess.run([sys.executable, "-c", LOADED_FOR_HELP], capture_output=True, text=True, env=environment())

    assert done.stdout == "[]\n", done.stderr


async def test_every_command_is_in_the_help_with_the_exit_codes():
    """What there is, and what the exit codes mean."""
    done = await midstream("--help")

    for name in (
        "serve",
        "run",
        "continue",
        "watch",
        "get",
        "list",
        "cancel",
        "delete",
        "models",
        "config",
        "doctor",
        "demo",
        "health",
    ):
        assert f"\n  {name} " in done.out
    assert "130 stopped by Ctrl-C" in " ".join(done.out.split())
