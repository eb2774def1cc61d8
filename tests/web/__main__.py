"""usage: python -m web

A real Envoy with clients/web/envoy.yaml in front of a real server: JSON by HTTP, the curl script, the gRPC-Web script:
each starts a run, stops it, and must have kept what it saw.
"""

import asyncio
import json
import os
import re
import shutil
import socket
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from command_line import serving
from midstream_simulator import Role, Simulator, Stall, Text

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "clients" / "web"
PIECES = [f"{number} " for number in range(200)]


class Broken(AssertionError):
    """A promise that was not kept."""


def hold(condition: bool, promise: str) -> None:
    """Tells one promise that was kept, or raises."""
    if not condition:
        raise Broken(promise)
    print(f"  ok  {promise}", flush=True)


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def envoy(folder: Path, server: str) -> AsyncIterator[str]:
    """Envoy as configured, but for its ports and the server's; its base URL."""
    for name in ("envoy.yaml", "index.html", "midstream.binpb"):
        shutil.copy(WEB / name, folder / name)
    config, port = (folder / "envoy.yaml").read_text(), free_port()
    ports = {"9901": str(free_port()), "8080": str(port), "50051": server.rpartition(":")[2]}
    (folder / "envoy.yaml").write_text(
        re.sub(r"port_value: (\d+)", lambda match: f"port_value: {ports[match[1]]}", config)
    )
    binary = Path(sysconfig.get_path("scripts")) / "envoy"
    process = await asyncio.create_subprocess_exec(
        *(str(binary), "-c", "envoy.yaml", "--log-level", "error", "--concurrency", "1", "--use-dynamic-base-id"),
        cwd=folder,
    )
    try:
        yield await _until_it_answers(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        await process.wait()


async def _until_it_answers(url: str, process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while True:
            try:
                await client.get(f"{url}/v1/models")
            except httpx.TransportError:
                if process.returncode is not None:
                    raise Broken(f"Envoy ended with {process.returncode}") from None
                await asyncio.sleep(0.05)
            else:
                return url


# --- What is shown ---------------------------------------------------------------------------------------------------


def start_of(run_id: str) -> dict[str, object]:
    """A Generate as JSON."""
    parts = [{"text": {"text": "hi"}}]
    return {"run_id": run_id, "model": "up/words", "messages": [{"role": "ROLE_USER", "parts": parts}]}


def text_of(run: dict[str, Any]) -> str:
    """The text of a run in JSON."""
    parts = run.get("message", {}).get("parts", [])
    return "".join(part.get("text", {}).get("text", "") for part in parts)


async def json_by_http(client: httpx.AsyncClient, simulator: Simulator) -> None:
    """Every method, by the paths of the contract."""
    print("JSON")
    run_id, seen = str(uuid.uuid4()), ""
    last: dict[str, Any] = {}
    answer: dict[str, Any] = {}
    async with client.stream("POST", "/v1/runs:generate", json=start_of(run_id)) as stream:
        async for line in stream.aiter_lines():
            last = json.loads(line)
            seen += last.get("delta", {}).get("text", "")
            if len(seen) > 30 and not answer:
                answer = (await client.post(f"/v1/runs/{run_id}:cancel", json={"reason": "enough"})).json()
    hold(last["finished"]["run"]["state"] == "RUN_STATE_CANCELLED", "a stream is a line per event; the last is the end")
    hold(answer["outcome"] == "OUTCOME_CANCELLED", "Cancel answers CANCELLED")
    hold(text_of(answer["run"]) == seen == text_of(last["finished"]["run"]), "and with what the stream had shown")
    run = (await client.get(f"/v1/runs/{run_id}")).json()
    hold(run == answer["run"], "GetRun says the same")
    watched = [json.loads(line) for line in (await client.get(f"/v1/runs/{run_id}:watch")).text.splitlines()]
    hold("".join(each.get("delta", {}).get("text", "") for each in watched) == seen, "WatchRun replays it")
    listed = (await client.get("/v1/runs", params={"page_size": 1})).json()["runs"]
    hold([each["run_id"] for each in listed] == [run_id], "ListRuns lists it")
    hold((await client.delete(f"/v1/runs/{run_id}")).json() == {}, "DeleteRun deletes it")
    gone = await client.get(f"/v1/runs/{run_id}")
    hold((gone.status_code, gone.json()["details"][0]["reason"]) == (404, "RUN_EXPIRED"), "then it is 404 RUN_EXPIRED")
    bad = await client.post("/v1/runs:generate", json={"run_id": run_id})
    fields = [each["field"] for each in bad.json()["details"][1]["field_violations"]]
    hold((bad.status_code, fields) == (400, ["model", "messages"]), "bad input is 400 and names the fields")
    await leaving_stops(client, simulator)
    escaped = await client.post("/v1/runs/a%3Ab:cancel", json={})
    hold(escaped.json()["run"]["run_id"] == "a:b", "an id with a colon is written %3A")


async def leaving_stops(client: httpx.AsyncClient, simulator: Simulator) -> None:
    """A reader that closes its connection is a caller that left."""
    run_id, number = str(uuid.uuid4()), len(simulator.requests)
    async with client.stream("POST", "/v1/runs:generate", json=start_of(run_id)) as stream:
        async for line in stream.aiter_lines():
            if "delta" in json.loads(line):
                break
    upstream = await simulator.received(number + 1)
    async with asyncio.timeout(5):
        await upstream.closed()
    run = (await client.get(f"/v1/runs/{run_id}", params={"wait_until_finished": True})).json()
    hold(run["cancel_reason"] == "CANCEL_REASON_CLIENT_GONE", "leaving the stream stops the run, also upstream")


async def scripts(url: str) -> None:
    """The examples, as a user would run them."""
    print("curl")
    out = await output_of(WEB / "generate.sh", url=url, also={"STOP_AFTER": "0.5"})
    seen = "".join(json.loads(line).get("delta", {}).get("text", "") for line in out[:-4] if line.startswith("{"))
    answer, run = json.loads(out[-3]), json.loads(out[-1])
    hold(run["state"] == "RUN_STATE_CANCELLED", "the run of generate.sh is CANCELLED")
    hold(text_of(run) == text_of(answer["run"]) == seen != "", "and kept what curl had shown")
    print("gRPC-Web")
    out = await output_of("node", WEB / "grpc-web.mjs", url=url)
    hold(out[-1].startswith("CANCELLED: ") and out[-1].endswith("all that was seen"), "grpc-web.mjs stops by leaving")
    hold(out[0].startswith("".join(PIECES)[:30]), "and showed what the model said")
    print("page")
    async with httpx.AsyncClient(base_url=url) as client:
        page = await client.get("/")
        hold(page.headers["content-type"].startswith("text/html"), "Envoy serves the page")


async def output_of(*command: str | Path, url: str, also: dict[str, str] | None = None) -> list[str]:
    """The lines that an example prints."""
    environment = os.environ | {"MIDSTREAM_WEB": url, "MODEL": "up/words"} | (also or {})
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, env=environment, cwd=WEB
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise Broken(f"{command[-1]} ended with {process.returncode}: {out.decode()}")
    return out.decode().splitlines()


async def show(folder: Path) -> None:
    """All of it."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(Simulator())
        simulator.play("words", [Role(), Text(PIECES, tokens_per_second=100), Stall()])
        config = folder / "midstream.toml"
        config.write_text(
            f'listen = "127.0.0.1:0"\nstore = "sqlite:///{folder}/runs.db"\nlocal.enabled = false\n'
            f'[log]\nlevel = "error"\n[upstreams.up]\ndialect = "openai-chat"\nbase_url = "{simulator.base_url}"\n'
        )
        server = await stack.enter_async_context(serving(config))
        url = await stack.enter_async_context(envoy(folder, server.address))
        async with httpx.AsyncClient(base_url=url, timeout=10) as client:
            await json_by_http(client, simulator)
        await scripts(url)


def main() -> int:
    """1 if a promise was not kept."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(show(Path(folder)))
        except Broken as error:
            print(f"BROKEN  {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
