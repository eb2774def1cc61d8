"""Runs the image that scripts/image-check.sh has built, as its own configuration says, and checks what it does.

usage: image_run.py IMAGE [--without-local-model] -- buildah GLOBAL-OPTIONS…
"""

import argparse
import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from valkey_server import ValkeyServer

USER = 10001
SERVICE = "midstream.v1.GenerationService"
RUN_ID = "image-check"
PROMPT = "Tell a long story about a river and the people who live beside it."
DELTAS_BEFORE_SIGNAL = 5
PR_SET_CHILD_SUBREAPER = 36
STEP_SECONDS = 120.0
"""For each step; far more than it takes, because the machine may be busy."""

Command = Sequence[str]


class CheckFailed(Exception):
    """What the image does not do."""


def check(holds: bool, words: str, seen: object = "") -> None:
    """Says what was checked, or raises with what was seen instead."""
    if not holds:
        raise CheckFailed(f"{words}: {seen}" if seen != "" else words)
    print(f"ok      {words}", flush=True)


class Image:
    """The image and one container of it."""

    def __init__(self, buildah: Command, name: str) -> None:
        self.buildah = tuple(buildah)
        about = json.loads(self._ask("inspect", "--type", "image", name))
        self.configuration: dict[str, Any] = about["Docker"]["config"]
        self.container = self._ask("from", "--pull-never", name)

    def _ask(self, *arguments: str) -> str:
        return subprocess.run((*self.buildah, *arguments), check=True, capture_output=True, text=True).stdout.strip()

    def added_megabytes(self) -> int:
        """What the image adds to its base, unpacked; but for a library of 0.3 MB it is one folder."""
        root = self._ask("mount", self.container)
        try:
            size = subprocess.run(("du", "-sxm", f"{root}/opt"), check=True, capture_output=True, text=True).stdout
            return int(size.split()[0])
        finally:
            self._ask("umount", self.container)

    async def start(self, command: Command, **variables: str) -> asyncio.subprocess.Process:
        """Runs a command in the container, as the user that the image names; its output is piped."""
        environment = [text for name, value in variables.items() for text in ("--env", f"{name}={value}")]
        run = ("run", "--isolation", "chroot", "--network", "host", *environment, self.container, "--", *command)
        return await asyncio.create_subprocess_exec(
            *self.buildah,
            *run,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=8 * 1024 * 1024,
            start_new_session=True,
        )

    async def call(self, command: Command, **variables: str) -> tuple[int, str, str]:
        """Runs a command to its end: exit code, output, complaints."""
        process = await self.start(command, **variables)
        async with asyncio.timeout(STEP_SECONDS):
            output, complaints = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode().strip(), without_buildah(complaints.decode())


class Server:
    """A server in the container, on a free port of the loopback interface. Use it as a context."""

    def __init__(self, image: Image, **variables: str) -> None:
        self._image = image
        self._variables = variables
        self._process: asyncio.subprocess.Process | None = None
        self._log: list[str] = []
        self.process_id = 0
        self.address = ""

    async def __aenter__(self) -> "Server":
        configuration = self._image.configuration
        command = (*configuration["Entrypoint"], *configuration["Cmd"])
        # Longer than the run of this check takes on a busy machine.
        variables = {"MIDSTREAM_LISTEN": "127.0.0.1:0", "MIDSTREAM_DRAIN_SECONDS": str(STEP_SECONDS)}
        self._process = await self._image.start(command, **variables, **self._variables)
        self._reading = asyncio.ensure_future(self._read_log())
        assert self._process.stdout is not None
        async with asyncio.timeout(STEP_SECONDS):
            line = (await self._process.stdout.readline()).decode().strip()
        if not line.startswith("midstream listening on "):
            await self._reading
            raise CheckFailed(f"the server did not come to listen; it said: {line} {' '.join(self._log)}")
        self.address = line.removeprefix("midstream listening on ")
        self.process_id = self._find_process(self._process.pid)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._process is not None and self._process.returncode is None:
            kill(descendants(self._process.pid))
            await self._process.wait()
        await self._reading
        if exc_info[0] is not None:
            print("the server's log ended with:", *self._log[-20:], sep="\n    ", file=sys.stderr)

    async def _read_log(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._log.append(line.decode(errors="replace").rstrip())

    @staticmethod
    def _find_process(ancestor: int) -> int:
        """The server itself: buildah stands between it and us."""
        for process_id in descendants(ancestor):
            if Path(os.readlink(f"/proc/{process_id}/exe")).name.startswith("python"):
                return process_id
        raise CheckFailed("the server's process is not to be found")

    def terminate(self) -> None:
        """Sends SIGTERM to the server, as an engine does to the first process of a container."""
        os.kill(self.process_id, signal.SIGTERM)

    async def exit_code(self) -> int:
        """Of the server, once it has ended."""
        assert self._process is not None
        async with asyncio.timeout(STEP_SECONDS):
            return await self._process.wait()

    async def call(self, *command: str) -> tuple[int, str, str]:
        """Runs a command in the same container, which finds this server."""
        return await self._image.call(command, MIDSTREAM_SERVER=self.address)

    async def health(self, *options: str) -> str:
        """What the image's own health check says."""
        kind, *command = self._image.configuration["Healthcheck"]["Test"]
        assert kind == "CMD"
        _, answer, complaint = await self.call(*command, *options)
        return answer or complaint

    async def start_run(self, *options: str) -> asyncio.subprocess.Process:
        """`midstream run` in the same container, with its events as JSON."""
        command = ("midstream", "run", "local/smollm2", PROMPT, "--json", "--temperature", "0", *options)
        return await self._image.start(command, MIDSTREAM_SERVER=self.address)


def descendants(ancestor: int) -> list[int]:
    """Process ids below one, nearest first."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # It has ended.
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, following = [], [ancestor]
    while following:
        following = [child for each in following for child in parents.get(each, [])]
        found += following
    return found


def without_buildah(complaints: str) -> str:
    """What the command itself said: buildah adds how it ended."""
    lines = complaints.splitlines()
    while lines and lines[-1].startswith(("subprocess exited with status ", "Error: exit status ")):
        lines.pop()
    return "\n".join(lines).strip()


def kill(process_ids: Sequence[int]) -> None:
    """Ends processes at once, those that have not ended by themselves."""
    for process_id in process_ids:
        with suppress(ProcessLookupError):
            os.kill(process_id, signal.SIGKILL)


def adopt_orphans() -> None:
    """Makes what a killed buildah leaves a child of this process, so that it can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def running(process_ids: Sequence[int]) -> list[int]:
    """Those that have not ended."""
    return [each for each in process_ids if os.path.exists(f"/proc/{each}")]


def text_of(run: dict[str, Any]) -> str:
    """The text that a run has kept."""
    parts: list[dict[str, Any]] = run.get("message", {}).get("parts", [])
    return "".join(part.get("text", {}).get("text", "") for part in parts)


async def read_events(
    process: asyncio.subprocess.Process, enough: Callable[[list[dict[str, Any]]], bool] = lambda events: False
) -> list[dict[str, Any]]:
    """Events of `midstream run --json` until there are enough, or to the end."""
    assert process.stdout is not None
    events: list[dict[str, Any]] = []
    async with asyncio.timeout(STEP_SECONDS):
        while not enough(events) and (line := await process.stdout.readline()):
            events.append(json.loads(line))
    return events


# --- The checks -------------------------------------------------------------------------------------------------------


def check_configuration(configuration: dict[str, Any]) -> None:
    """What an engine reads from the image."""
    check(configuration["User"] == f"{USER}:{USER}", "the user is a number, not root", configuration["User"])
    entry, command = configuration["Entrypoint"], configuration["Cmd"]
    check((entry, command) == (["midstream"], ["serve"]), "no shell stands before the server", (entry, command))
    check(configuration.get("StopSignal") == "SIGTERM", "it is stopped by SIGTERM", configuration.get("StopSignal"))
    check("50051/tcp" in configuration["ExposedPorts"], "port 50051 is exposed", configuration["ExposedPorts"])
    check("/data" in configuration["Volumes"], "/data is a volume", configuration["Volumes"])
    check(configuration["Healthcheck"]["Test"] == ["CMD", "midstream", "health"], "it has a health check")


async def check_contents(image: Image) -> None:
    """What is in it, and what its user may do."""
    code, answer, _ = await image.call(("id", "-u"))
    check((code, answer) == (0, str(USER)), f"commands run as user {USER}", answer)
    code, _, complaint = await image.call(("touch", "/opt/midstream/bin/midstream"))
    check(code != 0 and "Permission denied" in complaint, "who runs it cannot change its code", complaint)
    code, answer, complaint = await image.call(("python", "-c", "import midstream_server.app, pip"))
    check("No module named 'pip'" in complaint, "its environment has no pip", answer + complaint)
    code, _, complaint = await image.call(
        ("python", "-v", "-c", "import midstream_server.app, midstream_server.stores.valkey")
    )
    compiled = [line for line in complaint.splitlines() if line.startswith("# code object from /")]
    check(code == 0 and not compiled, "a start compiles nothing", compiled)


async def check_refusal(image: Image) -> None:
    """Without a word from the operator it does not open itself to the network."""
    command = (*image.configuration["Entrypoint"], *image.configuration["Cmd"])
    code, _, complaint = await image.call(command)
    check(code == 2 and "--insecure" in complaint, "unasked, it refuses to listen without authentication", complaint)
    print(f"        {complaint}")


async def check_serving(server: Server) -> None:
    """A server that is up, as its user and in good health."""
    owner = os.stat(f"/proc/{server.process_id}").st_uid
    check(owner == USER, f"the server runs as user {USER}", owner)
    answer = await server.health()
    check(answer == "SERVING", "its health check says SERVING", answer)


async def check_drain(server: Server) -> str:
    """SIGTERM while a run streams; the text that it ended with."""
    run = await server.start_run("--run-id", RUN_ID, "--max-tokens", "250", "--option", "ignore_eos=true")
    events = await read_events(run, lambda events: sum("delta" in event for event in events) >= DELTAS_BEFORE_SIGNAL)
    check(sum("delta" in event for event in events) == DELTAS_BEFORE_SIGNAL, "local/smollm2 streams", events)
    server.terminate()
    signalled = time.monotonic()
    answer = await server.health("--service", SERVICE)
    check(answer.endswith("NOT_SERVING"), "after SIGTERM it says NOT_SERVING", answer)
    after = await read_events(run)
    check(await run.wait() == 0, "the run goes on to its end", after[-1:])
    finished = after[-1]["finished"]["run"]
    check(finished["state"] == "RUN_STATE_COMPLETED", "its last event is RunFinished, COMPLETED", finished["state"])
    text = "".join(event["delta"].get("text", "") for event in [*events, *after] if "delta" in event)
    check(text == text_of(finished) != "", "what had streamed is the final text", (text, finished))
    code = await server.exit_code()
    seconds = time.monotonic() - signalled
    check(code == 0, f"the server ends with code 0 ({len(after) - 1} deltas and {seconds:.1f} s after SIGTERM)", code)
    return text


async def check_kept(server: Server, text: str) -> None:
    """The next server in the same volume has the text."""
    code, answer, complaint = await server.call("midstream", "get", RUN_ID, "--json")
    check(code == 0 and text_of(json.loads(answer)) == text, "a new server on the same /data has the text", complaint)


async def check_idle_stop(server: Server) -> None:
    """With nothing to drain it ends soon, and leaves no process."""
    below = descendants(server.process_id)
    begin = time.monotonic()
    server.terminate()
    code = await server.exit_code()
    check(code == 0, f"with nothing to drain SIGTERM ends it in {time.monotonic() - begin:.1f} s", code)
    check(not running(below), "no process of it is left", below)


async def check_valkey(image: Image) -> None:
    """It has the client and the scripts: what one server writes to a real Valkey, the next one reads there."""
    with tempfile.TemporaryDirectory() as folder:
        store = ValkeyServer(Path(folder))
        store.start()
        try:
            async with Server(image, MIDSTREAM_STORE=store.url) as server:
                await check_serving(server)
                code, answer, complaint = await server.call("midstream", "cancel", RUN_ID, "--json")
                remembered = code == 0 and json.loads(answer)["outcome"] == "OUTCOME_REMEMBERED"
                check(remembered, "with MIDSTREAM_STORE=valkey://… it writes there", answer + complaint)
            async with Server(image, MIDSTREAM_STORE=store.url) as server:
                code, answer, complaint = await server.call("midstream", "get", RUN_ID, "--json")
                found = code == 0 and json.loads(answer)["state"] == "RUN_STATE_CANCELLED"
                check(found, "another server reads it from the same Valkey", answer + complaint)
        finally:
            store.kill()


async def check_image(image: Image, *, has_local_model: bool) -> None:
    """Everything, in order."""
    print(f"        {image.added_megabytes()} MB more than the base, unpacked")
    check_configuration(image.configuration)
    await check_contents(image)
    await check_refusal(image)
    await check_valkey(image)
    if has_local_model:
        async with Server(image) as server:
            await check_serving(server)
            text = await check_drain(server)
        async with Server(image) as server:
            await check_kept(server, text)
            await check_idle_stop(server)
        return
    async with Server(image) as server:
        await check_serving(server)
        _, answer, complaint = await server.call("midstream", "models", "--json")
        check("local/" not in answer and not complaint, "it offers no local model", answer + complaint)
        await check_idle_stop(server)


def main() -> int:
    """0 if the image does all that it should."""
    parser = argparse.ArgumentParser()
    parser.add_argument("image")
    parser.add_argument("--without-local-model", action="store_true")
    parser.add_argument("buildah", nargs="+")
    arguments = parser.parse_args()
    adopt_orphans()
    try:
        image = Image(arguments.buildah, arguments.image)
        asyncio.run(check_image(image, has_local_model=not arguments.without_local_model))
    except CheckFailed as failure:
        print(f"FAILED  {failure}", file=sys.stderr)
        return 1
    except TimeoutError:
        print(f"FAILED  the step after the last one took longer than {STEP_SECONDS:g} s", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        kill(descendants(os.getpid()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
