"""The simulator controls its connections, and tells what it saw of them; also from a process of its own."""

import asyncio
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import looptime
import pytest

from midstream_simulator import (
    Cut,
    End,
    Gate,
    GateNotReached,
    Raw,
    Reset,
    Role,
    Simulator,
    Stall,
    Text,
    Wait,
    streamed,
)
from simulator_calls import body_for, call, content, raw_call, request_bytes

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


# --- FIN, RST and what the peer sees ---------------------------------------------------------------------------------


async def test_cut_is_a_fin_and_reset_a_rst(simulator):
    """A plain socket sees the end of the stream after one, and an error after the other."""
    async with raw_call(simulator, "cut-1") as (reader, _):
        cut = await reader.read()
    async with raw_call(simulator, "reset-1") as (reader, _):
        with pytest.raises(ConnectionResetError):
            await reader.read()

    assert b'"content":"1"' in cut
    assert not cut.endswith(b"0\r\n\r\n")
    assert [request.closed_by for request in simulator.requests] == ["server", "server"]
    assert simulator.requests[0].interrupted


async def test_cut_inside_a_chunk_leaves_it_open(simulator):
    """The chunk's size says more than what comes."""
    async with raw_call(simulator, "cut-chunk-1") as (reader, _):
        cut = await reader.read()

    assert cut.endswith(b"40\r\ndata: {")


@pytest.mark.parametrize(("step", "error"), [(Cut(), httpx.RemoteProtocolError), (Reset(), httpx.ReadError)])
async def test_connection_can_break_before_headers(simulator, client, step, error):
    """Not one byte of an answer."""
    simulator.play("m", [step])

    with pytest.raises(error):
        await call(client, simulator, "m")

    assert simulator.requests[0].headers_sent_ns is None
    assert simulator.requests[0].bytes_sent == 0


async def test_kept_connection_can_be_closed_without_a_word(simulator):
    """A whole answer, then a FIN where the client thinks that the connection is kept."""
    simulator.play("m", [*streamed(Text(["a"])), End(), Cut()])

    async with raw_call(simulator, "m") as (reader, _):
        answer = await reader.read()

    assert answer.endswith(b"0\r\n\r\n")
    assert b"connection: close" not in answer
    assert not simulator.requests[0].interrupted


# --- Gates and what is recorded --------------------------------------------------------------------------------------


async def test_gate_holds_until_it_is_released(simulator, client):
    """Nothing of what is behind a gate is sent before, however much else happens."""
    simulator.play("m", [Gate("before headers"), Role(), Text(["a"]), Gate("midway"), Text(["b"])])
    answer = asyncio.ensure_future(call(client, simulator, "m"))

    request = await simulator.received()
    await request.reached("before headers")
    await call(client, simulator, "count-3")
    silent = (request.headers_sent_ns, request.bytes_sent)
    request.release("before headers")
    await request.reached("midway")
    await call(client, simulator, "count-3")
    halfway = (request.tokens_sent, request.text_sent, request.first_token_ns is not None)
    request.release("midway")

    assert content((await answer).text) == "ab"
    assert silent == (None, 0)
    assert halfway == (1, "a", True)
    assert request.finished_ns is not None
    assert request.body["messages"][0]["content"] == "say hello to me"
    assert request.headers["content-type"] == "application/json"


async def test_gate_that_is_released_beforehand_does_not_hold(simulator, client):
    """Order does not matter, and a passed gate counts as reached."""
    simulator.play("m", [Gate("first"), Text(["a"]), Gate("second"), Text(["b"])])
    answer = asyncio.ensure_future(call(client, simulator, "m"))

    request = await simulator.received()
    request.release("second")
    request.release("first")
    await answer
    await request.reached("second")

    assert request.text_sent == "ab"


async def test_waiting_for_a_gate_that_never_comes_fails(simulator):
    """The request ended before; also when one asks late."""
    async with raw_call(simulator, "stall-1"):
        request = await simulator.received()
        waiting = asyncio.ensure_future(request.reached("never"))

    with pytest.raises(GateNotReached):
        await waiting
    with pytest.raises(GateNotReached):
        await request.reached("not either")


@pytest.mark.parametrize("model", ["stall-headers", "stall", "stall-3", "count-1000000-20"])
async def test_close_is_seen_at_once(simulator, model):
    """Before headers, before the first token, in the middle, while paced."""
    async with raw_call(simulator, model):
        request = await simulator.received()
        left = time.monotonic_ns()

    closed = await request.closed()

    assert closed - left < 250e6
    assert request.closed_by == "client"
    assert request.interrupted
    assert simulator.open_connections == 0


async def test_close_is_seen_while_the_peer_does_not_read():
    """A full send buffer does not hide it, and what never left is not counted."""
    async with Simulator(send_buffer_bytes=4096) as simulator:
        simulator.play("m", [Raw(text="x" * 20_000_000), Text(["after"])])
        async with raw_call(simulator, "m") as (reader, _):
            await reader.readexactly(100)
            request = await simulator.received()

        await request.closed()

        assert request.tokens_sent == 0
        assert 100 < request.bytes_sent < 20_000_000


async def test_half_close_counts_as_leaving():
    """A FIN is a close, although the peer's receiving side is still open and full."""
    loop = asyncio.get_running_loop()
    async with Simulator(send_buffer_bytes=4096) as simulator:
        simulator.play("m", [Raw(text="x" * 1_000_000)])
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.setblocking(False)
            await loop.sock_connect(peer, ("127.0.0.1", int(simulator.address.split(":")[1])))
            await loop.sock_sendall(peer, request_bytes("m"))
            request = await simulator.received()

            peer.shutdown(socket.SHUT_WR)
            await request.closed()

        assert request.closed_by == "client"
        assert request.interrupted


async def test_reset_by_the_client_is_a_close(simulator):
    """A RST counts like a FIN."""
    async with raw_call(simulator, "stall") as (reader, writer):
        request = await simulator.received()
        await reader.readexactly(10)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()
        await request.closed()

    assert request.closed_by == "client"


async def test_leaving_the_simulator_closes_everything():
    """A stalled request does not hold it open, and its peer sees the end."""
    async with Simulator() as simulator:
        simulator.play("m", [Text(["a"]), Stall()])
        reader, writer = await asyncio.open_connection(*simulator.address.split(":"))
        writer.write(request_bytes("m"))
        request = await simulator.received()

    await reader.read()

    assert request.closed_by == "server"
    assert [task for task in asyncio.all_tasks() if task.get_name() == "simulator.answer"] == []
    writer.close()
    await writer.wait_closed()


def test_pace_is_kept_on_the_loops_clock():
    """On a loop whose clock jumps, a minute of pacing takes no time and the intervals are exact."""

    async def scenario() -> float:
        async with Simulator() as simulator, httpx.AsyncClient(trust_env=False, timeout=None) as client:
            simulator.play("m", [Text(["a", "b", "c"], interval_ms=10_000), Wait(30_000), Text(["d"])])
            start = asyncio.get_running_loop().time()
            response = await call(client, simulator, "m")
            assert content(response.text) == "abcd"
            return asyncio.get_running_loop().time() - start

    began = time.monotonic()
    with asyncio.Runner(loop_factory=looptime.new_event_loop) as runner:
        elapsed = runner.run(scenario())

    assert elapsed == pytest.approx(50, abs=1)
    assert time.monotonic() - began < 10


# --- In a process of its own -----------------------------------------------------------------------------------------


async def test_process_is_driven_by_the_admin_api(client):
    """Another process scripts it, waits at a gate, releases it, and reads what happened."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "midstream_simulator", "--port", "0", stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    address = re.fullmatch(r"simulator listening on (127\.0\.0\.1:\d+)\n", line)
    assert address
    origin = f"http://{address[1]}"
    script = [{"step": "text", "pieces": ["a"]}, {"step": "gate", "name": "g"}, {"step": "text", "pieces": ["b"]}]

    await client.post(f"{origin}/admin/scripts", json={"model": "m", "script": script})
    answer = asyncio.ensure_future(client.post(f"{origin}/v1/chat/completions", json=body_for("m")))
    parked = (await client.get(f"{origin}/admin/requests/1?wait=gate:g")).json()
    await client.post(f"{origin}/admin/requests/1/release", json={"gate": "g"})
    over = (await client.get(f"{origin}/admin/requests/1?wait=over&times=1")).json()
    async with client.stream("POST", f"{origin}/v1/chat/completions", json=body_for("stall-2")) as stalled:
        await anext(stalled.aiter_raw())
    closed = (await client.get(f"{origin}/admin/requests/2?wait=closed")).json()
    everything = (await client.get(f"{origin}/admin/requests?count=2")).json()
    process.send_signal(signal.SIGTERM)

    assert content((await answer).text) == "ab"
    assert (parked["tokens_sent"], parked["gates"]) == (1, ["g"])
    assert (over["tokens_sent"], len(over["token_times_ns"]), over["interrupted"]) == (2, 2, False)
    assert (closed["closed_by"], closed["interrupted"], closed["model"]) == ("client", True, "stall-2")
    assert [each["number"] for each in everything] == [1, 2]
    assert await process.wait() == 0


async def test_admin_api_says_what_is_wrong(simulator, client):
    """Bad scripts, waits and paths are answered with a reason; a reset forgets."""
    await call(client, simulator, "count-1")
    url = f"{simulator.origin}/admin"
    answers = [
        await client.post(f"{url}/scripts", json={"model": "m", "script": [{"step": "sing"}]}),
        await client.post(f"{url}/scripts", json={"model": "m"}),
        await client.get(f"{url}/requests/1?wait=forever"),
        await client.get(f"{url}/requests/1?wait=gate:none"),
        await client.get(f"{url}/requests/0"),
        await client.get(f"{url}/nothing"),
        await client.post(f"{url}/reset"),
    ]

    assert [answer.status_code for answer in answers] == [400, 400, 400, 409, 404, 404, 200]
    assert "sing" in answers[0].json()["error"]["message"]
    assert simulator.requests == []
