"""Runs the examples in the Java client's README, and in its folder `examples`, against a real server.

`PYTHONPATH=tests python -m interop.java.readme`; it builds the client if need be.
"""

import asyncio
import contextlib
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from interop.languages import LANGUAGES
from midstream.v1 import generation_service_pb2 as wire
from midstream.v1 import run_pb2
from rpc.served import Service, simulated_service

_CLIENT = Path(__file__).parents[3] / "clients" / "java"
_RUNNER = Path(__file__).parent / "runner" / "target"
_BLOCK = re.compile(r"^```java\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MODEL = "sim/count-1000-100"
_LIMIT_SECONDS = 120.0
"""Of an example, which is compiled first."""
_ID = "[0-9a-f-]{36}"

# What each example prints; a busy machine gets some more text before the stop.
_EXPECTED = (
    rf"1 2 3 .*\n\[{_ID}: \d{{2,3}} characters kept, RUN_STATE_CANCELLED\]\n",
    rf"OUTCOME_CANCELLED 1.*\nRUN_STATE_CANCELLED\n\d+ 1.*\n(\d+ .*\n)*{_ID} RUN_STATE_CANCELLED\n(model sim/.+\n)+",
    r'role: ROLE_ASSISTANT\nparts \{\n  text \{\n    text: "1 2 3 .*"\n(.*\n)*',
    r"no such model: .+\n",
    "",
)
_EXPECTED_STOP = rf"1 2 3 .*\n\[the answer to the stop: \d+ characters\]\n.*\[{_ID}: RUN_STATE_CANCELLED, \d+ .*\]\n"


async def main() -> int:
    """The exit code: 0 if each printed what it should."""
    await LANGUAGES["java"].build()
    blocks = _BLOCK.findall((_CLIENT / "README.md").read_text("utf-8"))
    if len(blocks) != len(_EXPECTED):
        print(f"{len(blocks)} examples, but {len(_EXPECTED)} expectations")
        return 1
    async with simulated_service() as service:
        faults = [
            await _run(service.target, _program(each), wanted) for each, wanted in zip(blocks, _EXPECTED, strict=True)
        ]
        stop = (_CLIENT / "examples" / "StopMidstream.java").read_text("utf-8")
        faults.append(await _run(service.target, stop, _EXPECTED_STOP))
        faults.append(await _browser_leaves(service))
    print("\n".join(each for each in faults if each) or f"{len(faults)} examples passed")
    return int(any(faults))


def _program(block: str) -> str:
    """A whole program of an example: imports, then statements."""
    lines = block.splitlines()
    imports = [line for line in lines if line.startswith("import ")]
    body = "\n".join(line for line in lines if not line.startswith("import "))
    return "\n".join([*imports, "class Example { public static void main(String[] a) throws Exception {", body, "} }"])


async def _run(target: str, program: str, expected: str) -> str:
    """What is wrong with what it prints; empty if nothing is. Only the address and the model are others."""
    program = program.replace("127.0.0.1:50051", target).replace("local/smollm2", _MODEL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "Example.java"
        path.write_text(program, "utf-8")
        code, output = await _java(path, {"MIDSTREAM_TARGET": target})
    return "" if code == 0 and re.fullmatch(expected, output) else f"exit code {code}:\n{program}\nprinted\n{output}"


async def _browser_leaves(service: Service) -> str:
    """What is wrong with the web server of the examples: a reader that goes away stops the run."""
    environment = {"MIDSTREAM_TARGET": service.target, "MIDSTREAM_MODEL": _MODEL, "PORT": "0"}
    async with _started(_CLIENT / "examples" / "EventSource.java", environment) as process:
        assert process.stdout
        line = (await process.stdout.readline()).decode().strip()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(line.rpartition(":")[2]))
        writer.write(b"GET /?prompt=hello HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await reader.readuntil(b"data: 1")
        writer.close()
        runs = (await service.stub.ListRuns(wire.ListRunsRequest(page_size=1))).runs
        run = await service.finished(runs[0].run_id)
    return "" if run.state == run_pb2.RUN_STATE_CANCELLED else f"the browser left, but the run is\n{run}"


async def _java(path: Path, environment: Mapping[str, str]) -> tuple[int | None, str]:
    async with _started(path, environment) as process:
        output, _ = await process.communicate()
    return process.returncode, output.decode(errors="replace")


@asynccontextmanager
async def _started(path: Path, environment: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program, for as long as it may take; it does not outlive the block.

    Raises:
        TimeoutError: It took longer.
    """
    process = await asyncio.create_subprocess_exec(
        *("java", "-XX:TieredStopAtLevel=1", "-cp", f"{_RUNNER / 'lib'}/*", str(path)),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            yield process
    except TimeoutError as error:
        raise TimeoutError(f"{path.name} did not do what it should within {_LIMIT_SECONDS:.0f} s") from error
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
