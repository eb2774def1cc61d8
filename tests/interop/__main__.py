"""The command: `PYTHONPATH=tests python -m interop`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence

import uvloop

from interop import matrix
from interop.languages import LANGUAGES, BuildFailed, Language
from interop.runners import Column, run
from interop.scenarios import KINDS, Scenario, scenarios

_ONCE = ("leak",)
"""Takes as long as all others together, and finds the same over TLS: there only if it is asked for."""


def main() -> int:
    """The exit code: 0 if all that was asked for passed."""
    arguments = _arguments()
    languages, left_out = _usable(arguments.languages)
    for reason in left_out:
        print(f"interop: left out: {reason}", file=sys.stderr)
    if left_out and arguments.languages:
        return 1
    modes = _modes(arguments.tls, arguments.scenarios)
    passed = uvloop.run(_run_all(languages, arguments.kinds, modes, arguments.jobs))
    return 0 if passed and not left_out else 1


def _modes(tls: str, names: Sequence[str]) -> Mapping[bool, Sequence[Scenario]]:
    """The scenarios in plain text (False) and over TLS (True)."""
    asked = [each for each in scenarios() if not names or each.name in names]
    if tls != "both":
        return {tls == "only": asked}
    return {False: asked, True: [each for each in asked if names or each.name not in _ONCE]}


async def _run_all(
    languages: Sequence[Language], kinds: Sequence[str], modes: Mapping[bool, Sequence[Scenario]], jobs: int
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
    for has_tls, wanted in modes.items():
        columns = await _columns(languages, kinds, wanted, has_tls=has_tls, jobs=jobs)
        print(f"\nInterop, {'over TLS' if has_tls else 'plain text'}\n")
        print("\n".join(matrix.lines(columns, wanted)), flush=True)
        passed = passed and all(result.ok for column in columns for result in column.results)
    print(f"\n{'passed' if passed else 'FAILED'}, {time.monotonic() - started:.0f} s")
    return passed


async def _columns(
    languages: Sequence[Language], kinds: Sequence[str], wanted: Sequence[Scenario], *, has_tls: bool, jobs: int
) -> Sequence[Column]:
    limit = asyncio.Semaphore(jobs)

    async def column(language: Language, kind: str) -> Column:
        async with limit:
            return await run(language, kind, wanted, has_tls=has_tls)

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
        "--tls", choices=("off", "only", "both"), default="both", help="default: both, leak not over TLS"
    )
    parser.add_argument("--jobs", type=int, default=2, help="runners at a time (2)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
