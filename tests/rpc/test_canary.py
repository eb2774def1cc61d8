"""A key and a prompt that must be seen nowhere: not in a log line, an error, an event, a repr, or the store's file."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr

from command_line import LISTENING, environment
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from midstream_server.app import serving
from midstream_server.settings import UpstreamSettings
from midstream_simulator import Cut, Error, Head, Raw, Respond, Role, Script, Simulator, Stall, Text
from rpc.served import Stream, opened, refused, request_for, settings_for

KEY = "sk-canary-4f1c9b77d0"
PROMPT = "the canary of the prompt"
OUTPUT = "the canary of the output"

SCRIPTS: dict[str, Script] = {
    "bad key": [Respond(401, body={"error": {"message": f"Incorrect API key provided: {KEY}", "code": KEY}})],
    "rejected": [Respond(400, body=f"what is {KEY}?")],
    "unavailable": [Respond(503, body=f"<html>{KEY}</html>", content_type="text/html")],
    "error frame": [Role(), Text([OUTPUT]), Error(message=f"the key {KEY} is used up", code=KEY)],
    "malformed": [Role(), Text([OUTPUT]), Raw(f"data: {{{KEY}\n\n"), Stall()],
    "headers": [Head(headers={"x-request-id": f"of {KEY}"}), Role(), Text([OUTPUT]), Cut()],
    "a bug in the pump": [Role(), Text([OUTPUT]), Raw(f": break the pump {KEY} {PROMPT}\n\n"), Stall()],
    "a bug in a callback": [Role(), Text([OUTPUT]), Raw(f": break the loop {KEY} {PROMPT}\n\n"), Cut()],
}


@dataclass
class Canary:
    """Everything that came out of a server."""

    address: str
    process: asyncio.subprocess.Process
    simulator: Simulator
    answers: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def _broken_server(folder: Path, form: str) -> AsyncIterator[Canary]:
    async with Simulator() as simulator:
        config = folder / "midstream.toml"
        config.write_text(
            f"listen = '127.0.0.1:0'\nstore = 'sqlite:///{folder}/runs.db'\nlocal.enabled = false\n"
            f"log.level = 'debug'\nlog.format = '{form}'\n"
            f"[upstreams.sim]\ndialect = 'openai-chat'\nbase_url = '{simulator.base_url}'\napi_key_env = 'A_KEY'\n"
            "max_attempts = 1\n"
        )
        with (folder / "stderr").open("wb") as stderr:
            script = Path(__file__).with_name("broken_server.py")
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(script), "serve", "--config", str(config)),
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment({"A_KEY": KEY, "PYTHONPATH": ":".join(sys.path)}),
            )
            assert process.stdout is not None
            try:
                line = (await process.stdout.readline()).decode()
                yield Canary(line.removeprefix(LISTENING).strip(), process, simulator)
            finally:
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_key_and_no_prompt_comes_out_of_a_server(tmp_path: Path, form: str):
    """At debug level, from upstreams that echo the key in every way, and from bugs that show all they know."""
    async with _broken_server(tmp_path, form) as canary:
        for name, script in SCRIPTS.items():
            canary.simulator.play(name.replace(" ", "-"), script)
        async with opened(canary.address) as (_, stub):
            for name in SCRIPTS:
                stream = Stream(stub.Generate(request_for(name.replace(" ", "-"), PROMPT)))
                run = await stream.to_end()
                assert run.state == run_pb2.RUN_STATE_FAILED, name
                canary.answers += [event.SerializeToString() for event in stream.events]
                read = await stub.GetRun(wire.GetRunRequest(run_id=run.run_id))
                canary.answers.append(read.SerializeToString())
            error = await refused(stub.Generate(request_for("m", PROMPT, run_id="break-the-method")))
            models = await stub.ListModels(wire.ListModelsRequest())
        canary.answers += [repr(error).encode(), repr(error.trailing_metadata()).encode(), models.SerializeToString()]
        requests = canary.simulator.requests

    log = (tmp_path / "stderr").read_text()
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in requests)
    assert all(PROMPT in str(request.body) for request in requests)
    assert error.code() is grpc.StatusCode.INTERNAL
    for event in ("run.broken", "rpc.broken", "loop.error", "run.finished"):
        assert event in log
    assert "_BrokenParser" in log or "in feed" in log
    for word in (KEY, PROMPT, OUTPUT):
        assert word not in log
    for answer in canary.answers:
        assert KEY.encode() not in answer
        assert PROMPT.encode() not in answer
    stored = (tmp_path / "runs.db").read_bytes()
    assert OUTPUT.encode() in stored
    assert KEY.encode() not in stored
    assert PROMPT.encode() not in stored


async def test_no_key_is_in_a_repr():
    """Of what a traceback, a debugger or a log line might show."""
    upstream = UpstreamSettings(dialect="openai-chat", base_url="http://127.0.0.1:9/v1", api_key=SecretStr(KEY))
    settings = settings_for("http://127.0.0.1:9/v1", upstreams={"sim": upstream})
    async with serving(settings) as application:
        registry = application.upstreams.registry
        endpoint, _ = registry.resolve("sim/m")
        shown = [settings, upstream, application, registry, endpoint, vars(endpoint)]

        for each in shown:
            assert KEY not in repr(each)
            assert KEY not in str(each)
    assert KEY not in settings.model_dump_json()
