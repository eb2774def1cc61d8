"""The local engine's process is supervised. Small scripts play the child here; the real one is in tests/e2e."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from midstream_server.errors import UpstreamUnavailable
from midstream_server.upstreams import local_engine
from midstream_server.upstreams.local import LocalEngine, LocalEngineOptions, RestartPolicy

LISTENS = "import sys; print('local engine listening on http://127.0.0.1:9', flush=True); sys.stdin.read()"
IMPATIENT = LocalEngineOptions(start_timeout_seconds=0.2)
STUBBORN = LocalEngineOptions(stop_timeout_seconds=0.1)


def engine_of(script: str, options: LocalEngineOptions | None = None) -> LocalEngine:
    return LocalEngine(options, name="tiny", command=(sys.executable, "-I", "-S", "-c", script))


def is_alive(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def listens_after(fifo: Path) -> str:
    """A child that listens once somebody has opened the fifo."""
    return f"open({str(fifo)!r}).read(); {LISTENS}"


async def test_many_first_calls_start_one_child(tmp_path):
    """All get the same address and key."""
    started = tmp_path / "started"
    engine = engine_of(f"open({str(started)!r}, 'a').write('x'); {LISTENS}")

    addresses = await asyncio.gather(*(engine.start() for _ in range(10)))

    assert started.read_text() == "x"
    assert len(set(addresses)) == 1
    assert addresses[0].base_url == "http://127.0.0.1:9/v1"
    assert addresses[0].api_key not in repr(addresses[0])
    await engine.close()


async def test_child_gets_its_key_and_no_other(tmp_path, monkeypatch):
    """The keys of providers stay out of its environment; its own is there."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-private")
    environment = tmp_path / "environment"
    engine = engine_of(f"import os; open({str(environment)!r}, 'w').write(repr(dict(os.environ))); {LISTENS}")

    address = await engine.start()
    await engine.close()

    assert "sk-private" not in environment.read_text()
    assert address.api_key in environment.read_text()
    assert len(address.api_key) >= 32


async def test_childs_own_words_are_the_failure():
    """What it says of itself reaches the caller, with the upstream's name."""
    engine = engine_of("print('local engine failed: no such luck')")

    with pytest.raises(UpstreamUnavailable, match=r"^no such luck$") as caught:
        await engine.start()

    assert caught.value.upstream == "tiny"
    assert engine.process_id is None
    await engine.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import sys; sys.exit('it is\\ntoo late')", "ended with code 1: too late$"),
        ("import os; os.kill(os.getpid(), 4)", "lacks an instruction"),
        ("import os; os.kill(os.getpid(), 9)", "memory ran out"),
        ("import os; os.kill(os.getpid(), 6)", "by signal 6$"),
    ],
)
async def test_child_that_dies_at_the_start_is_explained(script, words):
    """An exit code with the last words, or what a signal means."""
    engine = engine_of(script)

    with pytest.raises(UpstreamUnavailable, match=words):
        await engine.start()

    await engine.close()


async def test_command_that_is_not_there_is_explained():
    """The system's word for it."""
    engine = LocalEngine(command=("/no/such/program",))

    with pytest.raises(UpstreamUnavailable, match="No such file"):
        await engine.start()


async def test_child_that_says_nothing_is_ended_in_time():
    """The start has a limit."""
    engine = engine_of("import signal; signal.pause()", IMPATIENT)
    starting = asyncio.create_task(engine.start())
    process_id = await spawned(engine)

    with pytest.raises(UpstreamUnavailable, match=r"did not start within 0\.2 s"):
        await starting

    assert not is_alive(process_id)


async def test_child_that_ignores_sigterm_is_killed():
    """After the time that it is given."""
    engine = engine_of(f"import signal; signal.signal(15, signal.SIG_IGN); {LISTENS}", STUBBORN)
    await engine.start()
    process_id = await spawned(engine)

    await engine.close()

    assert not is_alive(process_id)


async def test_cancelled_first_caller_leaves_the_child_to_the_next(fifo):
    """The start goes on where it was."""
    engine = engine_of(listens_after(fifo))
    first = asyncio.create_task(engine.start())
    with await asyncio.to_thread(fifo.open, "w"):
        process_id = await spawned(engine)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    address = await engine.start()

    assert address.base_url == "http://127.0.0.1:9/v1"
    assert engine.process_id == process_id
    await engine.close()


async def test_close_ends_a_start_that_is_going_on(fifo):
    """The starter hears that the server goes; nothing is left; closing again does nothing."""
    engine = engine_of(listens_after(fifo))
    starting = asyncio.create_task(engine.start())
    with await asyncio.to_thread(fifo.open, "w"):
        process_id = await spawned(engine)
        await engine.close()

    with pytest.raises(UpstreamUnavailable, match="shutting down"):
        await starting
    with pytest.raises(UpstreamUnavailable, match="shutting down"):
        await engine.start()
    await engine.close()
    assert not is_alive(process_id)


async def test_child_that_died_is_replaced():
    """By the next call, under another key; meanwhile there is no address."""
    engine = engine_of(LISTENS)
    before = await engine.start()
    await kill(engine)

    dead = (engine.address, engine.process_id)
    after = await engine.start()

    assert dead == (None, None)
    assert after.api_key != before.api_key
    await engine.close()


async def test_child_that_keeps_dying_is_given_a_rest():
    """After five failures a call is refused at once, with the last reason and when to come back."""
    engine = engine_of("print('local engine failed: no luck')")
    engine._policy._first_delay_seconds = 0.001  # not the schedule, which the table below has, but the refusal

    for _ in range(RestartPolicy.max_failures):
        with pytest.raises(UpstreamUnavailable, match=r"^no luck$"):
            await engine.start()
    with pytest.raises(UpstreamUnavailable, match=r"too often.*no luck") as caught:
        await engine.start()

    assert caught.value.retry_after_seconds == pytest.approx(RestartPolicy.pause_seconds, abs=5)


async def test_metrics_do_not_start_the_engine():
    """Without a child there is nothing to count, and that is said."""
    engine = engine_of(LISTENS)

    with pytest.raises(UpstreamUnavailable, match="not running"):
        await engine.metrics()

    assert engine.process_id is None


async def test_metrics_of_an_engine_that_does_not_answer_fail():
    """Nobody listens where this child says that it does."""
    engine = engine_of(LISTENS)
    await engine.start()

    with pytest.raises(UpstreamUnavailable, match="did not answer"):
        await engine.metrics()

    await engine.close()


def test_restarts_come_later_and_later_then_rest():
    """At once, then 0.25 s, doubling; after the fifth a pause; a long life makes it good again."""
    policy = RestartPolicy()
    schedule = []
    for second in range(RestartPolicy.max_failures):
        policy.note_failure(float(second))
        schedule.append((policy.delay(), policy.refused_for(float(second))))

    assert schedule == [(0, 0), (0.25, 0), (0.5, 0), (1, 0), (2, 30)]
    assert policy.refused_for(33.0) == 1
    assert policy.refused_for(34.0) == 0
    policy.note_failure(200.0, ran_seconds=RestartPolicy.stable_seconds)
    assert (policy.delay(), policy.refused_for(200.0)) == (0, 0)


def test_processor_that_is_too_old_is_told_from_its_flags():
    """Whole names count: avx is not avx2."""
    old = "processor\t: 0\nflags\t\t: fpu sse4_2 avx f16c\nbugs\t\t: avx2\n"
    new = "flags\t\t: fpu avx avx2 fma f16c bmi1 bmi2\n"

    assert local_engine.missing_processor_features(old) == ["avx2", "fma", "bmi2"]
    assert local_engine.missing_processor_features(new) == []


@pytest.mark.parametrize(("package", "word"), [("_ENGINE_PACKAGE", "engine"), ("_WEIGHTS_PACKAGE", "weights")])
async def test_absent_package_is_told_before_anything_is_started(monkeypatch, package, word):
    """With the command that installs it."""
    monkeypatch.setattr(local_engine, package, "no_such_package")
    engine = LocalEngine()

    with pytest.raises(UpstreamUnavailable, match=rf"{word}.*not installed.*make install"):
        await engine.start()


async def test_old_processor_is_told_before_anything_is_started(monkeypatch):
    """The words name what it lacks."""
    monkeypatch.setattr(local_engine, "_read_cpuinfo", lambda: "flags : sse4_2 fma f16c bmi2\n")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    engine = LocalEngine()

    with pytest.raises(UpstreamUnavailable, match="needs a processor with avx2 "):
        await engine.start()


def test_absent_system_library_is_named():
    """The loader's message becomes what to install."""
    error = ImportError("libgomp.so.1: cannot open shared object file: No such file or directory")

    assert "apt-get install libgomp1" in local_engine.explain_import_error(error)
    assert "undefined symbol" in local_engine.explain_import_error(ImportError("undefined symbol: x"))


async def spawned(engine: LocalEngine) -> int:
    """The child's id, once the starter has got hold of it."""
    while (process_id := engine.process_id) is None:  # noqa: ASYNC110 (it has no event, and needs none)
        await asyncio.sleep(0)
    return process_id


async def kill(engine: LocalEngine) -> None:
    """Kills the child and waits until its end has been noticed."""
    assert engine.process_id is not None
    os.kill(engine.process_id, signal.SIGKILL)
    assert await engine.has_died()
