"""The command: `PYTHONPATH=tests python -m interop`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import uvloop

from interop import matrix
from interop.languages import LANGUAGES, BuildFailed, Language
from interop.runners import Column, run
from interop.scenarios import KINDS, Scenario, scenarios

_ONCE = ("leak",)
"""Takes as long as all others together: over TLS, and with replicas, only if it is asked for."""


@dataclass(frozen=True, slots=True)
class Mode:
    """What stands at the other end."""

    has_tls: bool
    replicas: int

    def __str__(self) -> str:
        """For people."""
        return f"{'over TLS' if self.has_tls else 'plain text'}{f', {self.replicas} replicas' * (self.replicas > 1)}"


def main() -> int:
    """The exit code: 0 if all that was asked for passed."""
    arguments = _arguments()
    languages, left_out = _usable(arguments.languages)
    for reason in left_out:
        print(f"interop: left out: {reason}", file=sys.stderr)
    if left_out and arguments.languages:
        return 1
    modes = _modes(arguments)
    passed = uvloop.run(_run_all(languages, arguments.kinds, modes, arguments.jobs))
    return 0 if passed and not left_out else 1


def _modes(arguments: argparse.Namespace) -> Mapping[Mode, Sequence[Scenario]]:
    """What is to be shown of a server in plain text, over TLS, and of replicas."""
    asked = [each for each in scenarios() if not arguments.scenarios or each.name in arguments.scenarios]
    again = [each for each in asked if arguments.scenarios or each.name not in _ONCE]
    plain, secure = (Mode(has_tls=has_tls, replicas=arguments.replicas) for has_tls in (False, True))
    tls = arguments.tls or ("both" if arguments.replicas == 1 else "off")
    if tls == "only":
        return {secure: again}
    first = asked if arguments.replicas == 1 else again
    return {plain: first} | ({secure: again} if tls == "both" else {})


async def _run_all(
    languages: Sequence[Language], kinds: Sequence[str], modes: Mapping[Mode, Sequence[Scenario]], jobs: int
) -> bool:
    started = time.monotonic()
    for language in languages:
        try:
            await language.build()
        except BuildFailed as error:
            print(f"interop: {language.name} does not build\n{error}", file=sys.stderr)
            return False
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    passed = True
    for mode, wanted in modes.items():
        columns = await _columns(languages, kinds, wanted, mode, jobs=jobs)
        print(f"\nInterop, {mode}\n")
        print("\n".join(matrix.lines(columns, wanted)), flush=True)
        passed = passed and all(result.ok for column in columns for result in column.results)
    print(f"\n{'passed' if passed else 'FAILED'}, {time.monotonic() - started:.0f} s")
    return passed


async def _columns(
    languages: Sequence[Language], kinds: Sequence[str], wanted: Sequence[Scenario], mode: Mode, *, jobs: int
) -> Sequence[Column]:
    limit = asyncio.Semaphore(jobs)

    async def column(language: Language, kind: str) -> Column:
        async with limit:
            return await run(language, kind, wanted, has_tls=mode.has_tls, replicas=mode.replicas)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(column(language, kind)) for language in languages for kind in kinds]
    return [task.result() for task in tasks]


def _usable(asked: Sequence[str]) -> tuple[Sequence[Language], Sequence[str]]:
    languages = [LANGUAGES[name] for name in asked or LANGUAGES]
    left_out = [f"{each.name}: {each.missing}" for each in languages if each.missing]
    return [each for each in languages if not each.missing], left_out


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="interop",
        description="Every client and bare stubs, in every language, through the same scenarios. A language that "
        "cannot run here is left out, and makes the result a failure, unless --languages leaves it out.",
    )
    names = [each.name for each in scenarios()]
    parser.add_argument("--languages", nargs="+", choices=list(LANGUAGES), default=[], metavar="LANGUAGE")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--scenarios", nargs="+", choices=names, default=[], metavar="SCENARIO")
    parser.add_argument(
        "--tls", choices=("off", "only", "both"), help="default: both (off with replicas); leak only where it is first"
    )
    parser.add_argument(
        "--replicas",
        type=int,
        choices=(1, 2),
        default=1,
        help="2: on one Valkey, with connections going to each in turn",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runners at a time (2)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
