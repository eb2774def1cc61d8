"""The commands over TLS: a real `midstream serve`, asked by the others."""

import asyncio
import json
from pathlib import Path

import pytest

from certificates import Authority, Identity
from command_line import midstream, serving
from midstream_simulator import Simulator


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Whom the commands trust."""
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Identity:
    """What the server shows."""
    return authority.issue("127.0.0.1")


def write_config(folder: Path, server: Identity, upstream_url: str, *lines: str) -> Path:
    """A configuration of a server with TLS and one upstream, `sim`."""
    path = folder / "midstream.toml"
    path.write_text(
        f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{folder}/runs.db'\nlocal.enabled = false\n"
        f"[tls]\ncert_file = '{server.chain_file}'\nkey_file = '{server.key_file}'\n"
        + "".join(f"{line}\n" for line in lines)
        + f"[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{upstream_url}'\n"
    )
    return path


async def test_commands_reach_a_server_with_tls(tmp_path: Path, authority: Authority, server: Identity):
    """By flag and by variable; without either, health fails and says so."""
    async with Simulator() as simulator, serving(write_config(tmp_path, server, simulator.base_url)) as serve:
        at = ("--server", serve.address, "--tls-ca", str(authority.file))
        variables = {"MIDSTREAM_SERVER": serve.address, "MIDSTREAM_TLS_CA": str(authority.file)}
        done, health, plain = await asyncio.gather(
            midstream("run", "sim/count-3", "hi", "--run-id", "r1", *at),
            midstream("health", extra=variables),
            midstream("health", "--server", serve.address),
        )
        got = await midstream("get", "r1", "--json", extra=variables)

    assert (done.code, done.out.strip()) == (0, "1 2 3"), done.err
    assert (health.code, health.out.strip()) == (0, "SERVING"), health.err
    assert (plain.code, plain.out) == (1, "")
    assert json.loads(got.out)["state"] == "RUN_STATE_COMPLETED"


async def test_commands_show_their_certificate_where_it_is_asked_for(tmp_path: Path, authority: Authority):
    """Without it there is no connection. The variables are no misspelt settings to the server that is asked."""
    clients, server = Authority(tmp_path, "clients"), authority.issue("midstream.test")
    own = clients.issue("operator").both_file
    config = write_config(tmp_path, server, "http://127.0.0.1:9/v1", f"client_ca_file = '{clients.file}'")
    variables = {"MIDSTREAM_TLS_CA": str(authority.file), "MIDSTREAM_TLS_NAME": "midstream.test"}
    async with serving(config, extra=variables) as serve:
        without, with_it = await asyncio.gather(
            midstream("health", "--server", serve.address, extra=variables),
            midstream("health", "--server", serve.address, "--tls-cert", str(own), extra=variables),
        )

    assert (without.code, without.out) == (1, "")
    assert (with_it.code, with_it.out.strip()) == (0, "SERVING"), with_it.err


async def test_files_that_cannot_be_used_are_told_in_a_sentence(tmp_path: Path, server: Identity):
    """By the server with its setting, by a command with its flag, and by the doctor."""
    config = write_config(tmp_path, server, "http://127.0.0.1:9/v1")
    server.key_file.write_text("not a key")

    serve, doctor, health, listed = await asyncio.gather(
        midstream("serve", "--config", str(config)),
        midstream("doctor", "--config", str(config)),
        midstream("health", "--tls-ca", str(tmp_path / "nowhere.pem")),
        midstream("health", "--tls-cert", str(server.chain_file)),
    )

    wrong = f"tls.key_file: {server.key_file} is not the key, in PEM, of the first certificate in {server.chain_file}"
    assert serve.code == 2
    assert wrong in serve.err
    assert wrong in doctor.out
    assert health.err.strip().endswith(f"--tls-ca: cannot read {tmp_path / 'nowhere.pem'}: No such file or directory")
    assert listed.err.strip().endswith(f"--tls-cert: {server.chain_file} holds no PRIVATE KEY in PEM")


async def test_the_doctor_knows_its_own_server_by_the_certificate(
    tmp_path: Path, authority: Authority, server: Identity
):
    """The port is taken by the server that is configured, and not by a stranger."""
    config = write_config(tmp_path, server, "http://127.0.0.1:9/v1")
    async with serving(config) as serve:
        own = await midstream("doctor", "--config", str(config), "--listen", serve.address, "--json")
        authority.issue("127.0.0.1")  # in the files of the first one
        strange = await midstream("doctor", "--config", str(config), "--listen", serve.address, "--json")

    assert _finding(own.out, "listen")["level"] == "ok"
    assert _finding(strange.out, "listen")["level"] == "problem"


def _finding(output: str, subject: str) -> dict[str, str]:
    found: dict[str, str] = next(each for each in json.loads(output)["findings"] if each["subject"] == subject)
    return found
