"""The `midstream` command as a process: in pipes, on a terminal, and as a server."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

LISTENING = "midstream listening on "
_KEPT = ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a command sees: nothing of Midstream's and no provider's key, but for `extra`."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(extra or {})


def command(*arguments: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "midstream_server", *arguments]


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


async def started(*arguments: str, extra: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """A command in pipes."""
    return await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(extra),
    )


async def midstream(*arguments: str, feed: str = "", extra: Mapping[str, str] | None = None) -> Done:
    """Runs a command in pipes to its end."""
    process = await started(*arguments, extra=extra)
    out, err = await process.communicate(feed.encode())
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


class Terminal:
    """A command on a terminal of its own (a pty), so that Ctrl-C is what a person's is."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()
        self._output = bytearray()
        self._news = asyncio.Event()
        self._ended = False
        self.process: asyncio.subprocess.Process

    async def start(self, *arguments: str) -> None:
        """Starts the command, with this terminal as its controlling one."""
        slave = self._slave
        self.process = await asyncio.create_subprocess_exec(
            *command(*arguments), env=environment({"TERM": "xterm"}), preexec_fn=lambda: os.login_tty(slave)
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def press_control_c(self) -> None:
        """What the keyboard does."""
        os.write(self._master, b"\x03")

    @property
    def output(self) -> str:
        """All that was shown, line ends as the program wrote them."""
        return self._output.decode(errors="replace").replace("\r\n", "\n")

    async def shows(self, text: str) -> None:
        """Waits until the text has been shown."""
        while text not in self.output:
            assert not self._ended, f"ended without showing {text!r}: {self.output!r}"
            self._news.clear()
            await self._news.wait()

    async def takes(self, number: signal.Signals) -> None:
        """Waits until the command has taken a signal that was sent: the same one would merge with it until then."""
        while _is_pending(self.process.pid, number):  # noqa: ASYNC110  # the kernel tells nobody
            await asyncio.sleep(0.005)

    async def ends(self) -> int:
        """Waits until the command has ended and all was shown; its exit code."""
        code = await self.process.wait()
        while not self._ended:
            self._news.clear()
            await self._news.wait()
        return code

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux says so when the last process has left the terminal.
            data = b""
        if not data:
            self._ended = True
            asyncio.get_running_loop().remove_reader(self._master)
            os.close(self._master)
        self._output += data
        self._news.set()


def _is_pending(process_id: int, number: signal.Signals) -> bool:
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask & 1 << (number - 1) for mask in masks)


@dataclass(frozen=True, slots=True)
class Server:
    """A server in a process of its own."""

    address: str
    process: asyncio.subprocess.Process


@asynccontextmanager
async def serving(config: Path, *flags: str, extra: Mapping[str, str] | None = None) -> AsyncIterator[Server]:
    """`midstream serve` until the block ends; it must then end well."""
    process = await asyncio.create_subprocess_exec(
        *command("serve", "--config", str(config), *flags), stdout=subprocess.PIPE, env=environment(extra)
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        assert line.startswith(LISTENING), line
        yield Server(line.removeprefix(LISTENING).strip(), process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
    assert code == 0
