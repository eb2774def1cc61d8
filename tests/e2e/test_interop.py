"""The interop harness itself: that it passes what is right, and that nothing which is wrong gets past it."""

import asyncio
import contextlib
from pathlib import Path

import aiohttp
import pytest

from interop.languages import LANGUAGES, Language
from interop.matrix import lines
from interop.proxy import Proxy
from interop.python.__main__ import outcome
from interop.python.stage import Stage
from interop.runners import Column, results_of, run
from interop.scenarios import KINDS, scenarios, scripts
from rpc.scripted_server import ScriptedServer, text_log
from rpc.tcp_proxy import TcpProxy

SOME = [each for each in scenarios() if each.name in ("complete", "resume_at_every_event", "cancel_by_leaving")]
ELSEWHERE = [each for each in scenarios() if each.name in ("cancel_by_id_from_elsewhere", "duplicate_start")]


def scripted_language(root: Path, script: str) -> Language:
    """A language whose runner is a shell script."""
    folder = root / "shell"
    folder.mkdir()
    for name, text in (("build", "true"), ("run", script)):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return Language("shell", root=root)


@pytest.mark.timeout(300)  # more than the harness's own limits together, which say what they waited for
async def test_stubs_pass_against_a_real_server_with_tls():
    """A run, a stop, and a connection that is lost at every event; server, proxy and control do what they should."""
    column = await run(LANGUAGES["python"], "raw", SOME, has_tls=True)

    assert [(each.scenario, each.detail) for each in column.results] == [(each.name, "") for each in SOME]
    assert all(each.ok for each in column.results)


@pytest.mark.timeout(400)  # more than the harness's own limits together, which say what they waited for
async def test_stubs_pass_against_two_replicas():
    """Both get connections, and it makes no difference which of them a call meets."""
    column = await run(LANGUAGES["python"], "raw", SOME + ELSEWHERE, has_tls=False, replicas=2)

    assert [(each.scenario, each.detail) for each in column.results] == [(each.name, "") for each in SOME + ELSEWHERE]
    assert all(each.ok for each in column.results)
    assert len(column.connections) == 2
    assert all(column.connections)
    assert "+".join(map(str, column.connections)) in "\n".join(lines([column], SOME))


async def test_the_proxy_spreads_connections_and_passes_over_who_is_gone():
    """Of two connections each server gets one, the next two the other way round; one that is gone gets none."""
    first, second = await _greeting(b"1"), await _greeting(b"2")
    async with Proxy(first.sockets[0].getsockname()[1], second.sockets[0].getsockname()[1]) as proxy:
        both = [await _greeted(proxy) for _ in range(6)]
        first.close()
        left = [await _greeted(proxy) for _ in range(4)]
        second.close()
        nobody = await _greeted(proxy)

        assert list(proxy.accepted.values()) == [3, 7]
    assert (both, left, nobody) == ([b"1", b"2", b"2", b"1", b"1", b"2"], [b"2"] * 4, b"")


@pytest.mark.parametrize("kind", [Proxy, TcpProxy])
@pytest.mark.parametrize("turns", range(6))
async def test_a_proxy_that_ends_leaves_no_connection_open(kind: type[Proxy] | type[TcpProxy], turns: int):
    """However far a connection had come, also one that it had not begun to serve."""
    server = await _greeting(b"1")
    async with server, asyncio.timeout(5):
        port = server.sockets[0].getsockname()[1]
        async with Proxy(port) if kind is Proxy else TcpProxy(f"127.0.0.1:{port}") as proxy:
            address = proxy.port if isinstance(proxy, Proxy) else int(proxy.address.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", address)
            for _ in range(turns):
                await asyncio.sleep(0)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() in (b"", b"1")
        writer.close()


async def _greeting(name: bytes) -> asyncio.Server:
    """A server that says its name and hangs up."""

    def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        writer.close()

    return await asyncio.start_server(greet, "127.0.0.1", 0)


async def _greeted(proxy: Proxy) -> bytes:
    """The name that a new connection hears; empty if it is reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("script", "details"),
    [
        ("exit 3", ["the runner exited with 3", *["not run, as the runner is gone"] * 2]),
        (
            'echo \'{"scenario": "complete", "ok": "yes", "detail": "", "milliseconds": 1}\'; echo nonsense',
            ["", "the runner printed no result: b'nonsense\\n'", "not run, as the runner is gone"],
        ),
        (
            'echo \'{"scenario": "another", "ok": true, "detail": "", "milliseconds": 1}\'; cat',
            ["the runner answered for 'another'", *["not run, as the runner is gone"] * 2],
        ),
    ],
    ids=["exits", "is vague and then talks", "answers for another"],
)
async def test_a_broken_runner_passes_nothing(tmp_path: Path, script: str, details: list[str]):
    """Every scenario that it was asked for is failed, and shown as that."""
    language = scripted_language(tmp_path, script)

    process = await language.start("client", tmp_path / "errors")
    results = await results_of(process, SOME)
    await process.communicate(b"")

    assert [each.detail for each in results] == details
    assert not any(each.ok for each in results)
    assert "\n".join(lines([Column("shell", "client", results)], SOME)).count("FAILED  shell client: ") == len(SOME)


async def test_a_scenario_that_hangs_says_where():
    """The lines that it stood at, down to the one that waited."""
    models = {name: name for name in scripts()}
    async with ScriptedServer(text_log("x")) as server, aiohttp.ClientSession() as session:
        server.hold_after(0)
        configuration = {"kind": "raw", "target": server.target, "tls": None, "api_key": None, "models": models}
        detail = await outcome("complete", Stage(configuration, session), 0.2)

    assert detail.startswith("not over after 0.2 s: it was at cases.py:")
    assert detail.endswith("event = await self.call.read()")


def test_a_language_that_cannot_run_says_why(tmp_path: Path):
    """No tool, or no runner."""
    assert Language("go", ("no-such-tool",), tmp_path).missing == "no-such-tool not found on PATH"
    assert Language("go", (), tmp_path).missing == "go/build and run is not there"


def test_every_scenario_is_whole():
    """Each is for a kind that exists, has steps and a limit, and the scripts that it names are there."""
    named = {word for each in scenarios() for step in each.steps for word in _script_names(step)}

    assert named == set(scripts())
    assert all(each.steps and each.shows and each.seconds >= 30 for each in scenarios())
    assert all(set(each.kinds) <= set(KINDS) and each.kinds for each in scenarios())


def test_a_scenario_that_does_not_apply_is_no_failure():
    """It is shown as a dash."""
    column = Column("go", "client", [])

    assert list(lines([column], SOME))[1].split() == [SOME[0].name, "-"]


def _script_names(step: str) -> list[str]:
    """The scripts that a step starts."""
    return [each for each in scripts() if f"with `{each}`" in step]
