"""Runs one runner through its scenarios, in a world of its own."""

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interop.control import control
from interop.languages import Language
from interop.scenarios import Scenario
from interop.serving import Certificates
from interop.world import world

_START_SECONDS = 30.0
_KILL_SECONDS = 10.0
_SHOWN_BYTES = 3_000


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a scenario."""

    scenario: str
    ok: bool
    detail: str = ""
    milliseconds: int = 0


@dataclass(frozen=True, slots=True)
class Column:
    """What became of all scenarios of a language and kind, and what was printed on standard error meanwhile.

    `connections`, where there are replicas: how many each of them got.
    """

    language: str
    kind: str
    results: Sequence[Result]
    errors: str = ""
    connections: Sequence[int] = ()

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.language} {self.kind}"


async def run(language: Language, kind: str, wanted: Sequence[Scenario], *, has_tls: bool, replicas: int = 1) -> Column:
    """Runs the scenarios that apply to this kind; what goes wrong on the way is in the results."""
    chosen = [each for each in wanted if kind in each.kinds]
    with tempfile.TemporaryDirectory(prefix="midstream-interop-") as name:
        folder = Path(name)
        certificates = Certificates.made_in(folder) if has_tls else None
        async with world(folder, certificates, replicas) as made, control(made) as control_url:
            errors = folder / "runner.log"
            process = await language.start(kind, errors)
            made.runner_process_id = process.pid
            configuration = {
                "kind": kind,
                "control": control_url,
                "scenarios": [each.name for each in chosen],
                **made.configuration(certificates),
            }
            try:
                await _give(process, configuration)
                results = await results_of(process, chosen)
            finally:
                _kill(process)
                await process.wait()
            shown = errors.read_text(errors="replace") + made.replicas.log()
            return Column(language.name, kind, results, shown[-_SHOWN_BYTES:], tuple(made.replicas.connections))


async def _give(process: asyncio.subprocess.Process, configuration: object) -> None:
    assert process.stdin is not None, "the input is a pipe"
    process.stdin.write(json.dumps(configuration).encode() + b"\n")
    with contextlib.suppress(OSError):  # it is gone already: its silence says so
        await process.stdin.drain()
    process.stdin.close()


async def results_of(process: asyncio.subprocess.Process, chosen: Sequence[Scenario]) -> list[Result]:
    """What a runner says of each scenario. What it does not say, or says of another, is a failure."""
    results: list[Result] = []
    for scenario in chosen:
        try:
            async with asyncio.timeout(scenario.seconds + _KILL_SECONDS + (0 if results else _START_SECONDS)):
                results.append(await _next_result(process, scenario.name))
        except TimeoutError:
            results.append(Result(scenario.name, ok=False, detail="the runner did not answer in time, and was killed"))
            break
        except _RunnerBroken as error:
            results.append(Result(scenario.name, ok=False, detail=str(error)))
            break
    rest = chosen[len(results) :]
    return results + [Result(each.name, ok=False, detail="not run, as the runner is gone") for each in rest]


class _RunnerBroken(Exception):
    """It did not keep to the protocol."""


async def _next_result(process: asyncio.subprocess.Process, name: str) -> Result:
    assert process.stdout is not None, "the output is a pipe"
    line = await process.stdout.readline()
    if not line:
        raise _RunnerBroken(f"the runner exited with {await process.wait()}")
    try:
        said = json.loads(line)
        result = Result(said["scenario"], said["ok"] is True, str(said["detail"]), round(said["milliseconds"]))
    except (ValueError, KeyError, TypeError):
        raise _RunnerBroken(f"the runner printed no result: {line[:200]!r}") from None
    if result.scenario != name:
        raise _RunnerBroken(f"the runner answered for {result.scenario!r}")
    return result


def _kill(process: asyncio.subprocess.Process) -> None:
    """Its children, too, should it have some."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
