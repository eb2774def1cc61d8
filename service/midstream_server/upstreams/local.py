"""The engine of `local/smollm2`, a small real model on this machine, as a supervised child process.

`LocalEngine` owns the process: started by the first `start`, restarted by the next one after it died, stopped by
`close`. No task watches it: the first caller who needs the engine starts it, the others wait for the same start, and if
that caller is cancelled the next one goes on from there. `upstreams.local_upstream` is the upstream in front of it.
"""

import asyncio
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

import httpx
import structlog

from midstream_server.errors import UpstreamUnavailable
from midstream_server.upstreams.local_engine import FAILED, KEY_VARIABLE, LISTENING, find_problem

_log = structlog.get_logger(__name__)

_INHERITED_VARIABLES = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "VIRTUAL_ENV")
"""The keys of providers are in the environment too, and none of the engine's business."""
_COUNTER = re.compile(r"^llamacpp:(\w+) ([\d.e+]+)$", re.MULTILINE)
_METRICS_TIMEOUT_SECONDS = 5.0
_DYING_SECONDS = 1.0
_COMPLAINT_BYTES = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEngineOptions:
    """How the child runs.

    One thread, because more of them on cores that others use too wait for each other: generation fell to a tenth.
    """

    threads: int = 1
    slots: int = 2
    """Generations at a time; further ones wait in the engine."""
    context_tokens: int = 4096
    """For all slots together."""
    start_timeout_seconds: float = 60.0
    stop_timeout_seconds: float = 3.0
    """After SIGTERM, before SIGKILL."""


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where the engine listens, in the OpenAI dialect, and the key that it wants. Another one after each restart."""

    base_url: str
    api_key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """The engine's own counters since it was started."""

    predicted_tokens: int
    """Tokens generated; a generation is counted when it has ended."""
    prompt_tokens: int
    """Tokens of prompts worked off, without those from the cache."""
    requests_processing: int
    requests_deferred: int


class RestartPolicy:
    """When an engine that died may be started again: at once, then later and later, then not for a while.

    Pure: the caller says what time it is, in seconds.
    """

    max_failures = 5
    stable_seconds = 60.0
    """An engine that ran so long has a clean record."""
    pause_seconds = 30.0
    _first_delay_seconds = 0.25

    def __init__(self) -> None:
        self._failures = 0
        self._last_failure = 0.0

    def note_failure(self, now: float, *, ran_seconds: float = 0.0) -> None:
        """The engine died, or did not start."""
        self._failures = 1 if ran_seconds >= self.stable_seconds else self._failures + 1
        self._last_failure = now

    def delay(self) -> float:
        """How long to wait before the next start."""
        return self._first_delay_seconds * 2 ** (self._failures - 2) if self._failures > 1 else 0.0

    def refused_for(self, now: float) -> float:
        """For how long no start is tried; 0: it may be. After a pause each start has one try."""
        if self._failures < self.max_failures:
            return 0.0
        return max(0.0, self._last_failure + self.pause_seconds - now)


class LocalEngine:
    """The supervised child. Of one event loop; calls may overlap.

    Args:
        options: how it runs.
        name: the upstream that failures name.
        command: for tests, another child; `--parent-pid` and the options are appended.
    """

    def __init__(
        self, options: LocalEngineOptions | None = None, *, name: str = "local", command: Sequence[str] = ()
    ) -> None:
        self._options = options or LocalEngineOptions()
        self._name = name
        self._command = command or (sys.executable, "-P", "-m", "midstream_server.upstreams.local_engine")
        self._checks_machine = not command
        self._lock = asyncio.Lock()
        self._policy = RestartPolicy()
        self._process: asyncio.subprocess.Process | None = None
        self._complaints: IO[bytes] | None = None
        self._api_key = ""
        self._address: EngineAddress | None = None
        self._start_time = 0.0
        self._last_words = ""
        self._closed = False

    @property
    def process_id(self) -> int | None:
        """Of the child, while it lives."""
        return self._process.pid if self._process is not None and _is_alive(self._process) else None

    @property
    def address(self) -> EngineAddress | None:
        """Where it listens, while it does."""
        return self._address if self.process_id is not None else None

    async def start(self) -> EngineAddress:
        """Makes sure that the engine runs; where it listens.

        However many callers wait, one child is started. A caller that is cancelled leaves either no child (while it is
        being made), or one that goes on starting: the next call waits for that one, and `close` stops it.

        Raises:
            UpstreamUnavailable: it cannot run here, did not start, or died too often; says why in a person's words.
        """
        if (address := self.address) is not None:
            return address
        async with self._lock:
            if (address := self.address) is not None:
                return address
            await self._bury()
            if self._process is None:
                await self._spawn()
            self._address = await self._wait_until_listening()
            return self._address

    async def has_died(self) -> bool:
        """Whether the child has ended, or does so in a moment: its sockets close before its end can be seen.

        Cancelled, it changes nothing.
        """
        if self._process is None:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(_DYING_SECONDS):
                await self._process.wait()
        return self._process.returncode is not None

    async def metrics(self) -> EngineMetrics:
        """The engine's counters. Does not start it.

        Raises:
            UpstreamUnavailable: it does not run, or did not answer.
        """
        address = self.address
        if address is None:
            raise self._unavailable("the local model's engine is not running")
        headers = {"authorization": f"Bearer {address.api_key}", "connection": "close"}
        url = address.base_url.removesuffix("/v1") + "/metrics"
        try:
            async with httpx.AsyncClient(verify=False, trust_env=False, timeout=_METRICS_TIMEOUT_SECONDS) as client:
                response = await client.get(url, headers=headers)
        except httpx.HTTPError as error:
            raise self._unavailable("the local model's engine did not answer") from error
        counters = {name: int(float(value)) for name, value in _COUNTER.findall(response.text)}
        return EngineMetrics(
            predicted_tokens=counters.get("tokens_predicted_total", 0),
            prompt_tokens=counters.get("prompt_tokens_total", 0),
            requests_processing=counters.get("requests_processing", 0),
            requests_deferred=counters.get("requests_deferred", 0),
        )

    async def close(self) -> None:
        """Stops the child, and refuses further starts. Safe to call twice, and while a start is going on.

        Cancelled, it leaves a child that has been killed.
        """
        self._closed = True
        if self.process_id is not None:
            _log.info("local_engine.stopping", pid=self.process_id)
        await self._stop()
        async with self._lock:  # A start that was going on has ended, and may have left a child.
            await self._stop()
            self._forget()

    # --- Starting ----------------------------------------------------------------------------------------------------

    async def _bury(self) -> None:
        """Takes note of a child that died, and waits as long as the policy says. Cancelled, it changes nothing."""
        if self._process is not None and not _is_alive(self._process):
            await self._process.wait()
            self._note_death()
        now = asyncio.get_running_loop().time()
        if self._closed:
            raise self._unavailable("the server is shutting down")
        if (seconds := self._policy.refused_for(now)) > 0:
            words = f"the local model's engine failed too often and is given a rest; last time: {self._last_words}"
            raise self._unavailable(words, retry_after_seconds=seconds)
        if self._process is None:
            await asyncio.sleep(self._policy.delay())

    async def _spawn(self) -> None:
        """Makes the child. Cancelled, it leaves none."""
        if self._checks_machine and (problem := find_problem()):
            raise self._note_failed_start(problem)
        self._api_key = secrets.token_urlsafe(32)
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _forget)
        environment = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                *self._arguments(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=self._complaints,
                env={**environment, KEY_VARIABLE: self._api_key},
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which then stops its child in order.
            )
        except OSError as error:
            raise self._note_failed_start(f"the local model's engine cannot be started: {error.strerror}") from error
        self._start_time = asyncio.get_running_loop().time()

    def _arguments(self) -> list[str]:
        options = self._options
        numbers = {
            "--threads": options.threads,
            "--slots": options.slots,
            "--context-tokens": options.context_tokens,
            "--parent-pid": os.getpid(),
        }
        return [text for name, number in numbers.items() for text in (name, str(number))]

    async def _wait_until_listening(self) -> EngineAddress:
        """Reads the child's one line. Cancelled, it leaves the child starting and the line unread."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._options.start_timeout_seconds):
                line = (await process.stdout.readline()).decode(errors="replace").strip()
        except TimeoutError as error:
            await self._stop()
            words = f"the local model's engine did not start within {self._options.start_timeout_seconds:g} s"
            raise self._note_failed_start(words) from error
        if not line.startswith(LISTENING):
            await self._stop(ask=False)
            raise self._note_failed_start(line.removeprefix(FAILED) if line.startswith(FAILED) else self._cause())
        seconds = round(asyncio.get_running_loop().time() - self._start_time, 3)
        _log.info("local_engine.started", pid=process.pid, seconds=seconds)
        return EngineAddress(f"{line.removeprefix(LISTENING)}/v1", self._api_key)

    # --- Ending ------------------------------------------------------------------------------------------------------

    async def _stop(self, *, ask: bool = True) -> None:
        """SIGTERM, then SIGKILL; without asking, where it is about to end. Cancelled, it leaves a killed child."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        try:
            with suppress(TimeoutError, ProcessLookupError):
                if ask:
                    process.terminate()
                async with asyncio.timeout(self._options.stop_timeout_seconds):
                    await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
        await process.wait()

    def _note_death(self) -> None:
        """The child died after it had started."""
        now = asyncio.get_running_loop().time()
        words = self._cause()
        self._policy.note_failure(now, ran_seconds=now - self._start_time)
        self._last_words = words
        _log.warning("local_engine.died", reason=words)
        self._forget()

    def _note_failed_start(self, words: str) -> UpstreamUnavailable:
        """The child did not come to listen; the error to raise."""
        if self._closed:
            return self._unavailable("the server is shutting down")
        self._policy.note_failure(asyncio.get_running_loop().time())
        self._last_words = words
        _log.warning("local_engine.not_started", reason=words)
        self._forget()
        return self._unavailable(words)

    def _forget(self) -> None:
        """Lets go of a child that has ended."""
        self._process = None
        self._address = None
        if self._complaints is not None:
            self._complaints.close()
            self._complaints = None

    def _cause(self) -> str:
        """Why the child ended, in a person's words."""
        code = self._process.returncode if self._process is not None else None
        if code == -signal.SIGILL:
            return "the local model's engine ended: this processor lacks an instruction that it needs"
        if code == -signal.SIGKILL:
            return "the local model's engine was killed, perhaps because memory ran out"
        how = f"by signal {-code}" if code is not None and code < 0 else f"with code {code}"
        return f"the local model's engine ended {how}{self._complaint()}"

    def _complaint(self) -> str:
        """The last line that the child said on standard error."""
        if self._complaints is None:
            return ""
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - _COMPLAINT_BYTES))
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1].strip()}" if lines else ""

    def _unavailable(self, words: str, *, retry_after_seconds: float | None = None) -> UpstreamUnavailable:
        return UpstreamUnavailable(words, upstream=self._name, retry_after_seconds=retry_after_seconds)


def _is_alive(process: asyncio.subprocess.Process) -> bool:
    """Whether the process has not ended. Asks the kernel: the event loop hears of an end later than a peer's socket."""
    if process.returncode is not None:
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False
