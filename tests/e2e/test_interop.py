"""The interop harness itself: that it passes what is right, and that nothing which is wrong gets past it."""

from pathlib import Path

import pytest

from interop.languages import LANGUAGES, Language
from interop.matrix import lines
from interop.runners import Column, results_of, run
from interop.scenarios import KINDS, scenarios, scripts

SOME = [each for each in scenarios() if each.name in ("complete", "resume_at_every_event", "cancel_by_leaving")]


def scripted_language(root: Path, script: str) -> Language:
    """A language whose runner is a shell script."""
    folder = root / "shell"
    folder.mkdir()
    for name, text in (("build", "true"), ("run", script)):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return Language("shell", root=root)


async def test_stubs_pass_against_a_real_server_with_tls():
    """A run, a stop, and a connection that is lost at every event; server, proxy and control do what they should."""
    column = await run(LANGUAGES["python"], "raw", SOME, has_tls=True)

    assert [(each.scenario, each.detail) for each in column.results] == [(each.name, "") for each in SOME]
    assert all(each.ok for each in column.results)


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
