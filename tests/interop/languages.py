"""The languages: what a machine needs for each, how its runners are built, and how one is started."""

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


class BuildFailed(Exception):
    """With what the build printed."""


@dataclass(frozen=True, slots=True)
class Language:
    """A folder with the executables `build` and `run`; `tools` are the programs that they need."""

    name: str
    tools: Sequence[str] = ()
    root: Path = _FOLDER

    @property
    def folder(self) -> Path:
        """Where its runners are."""
        return self.root / self.name

    @property
    def missing(self) -> str:
        """Why it cannot run here, in words; empty if it can."""
        if tools := [each for each in self.tools if shutil.which(each) is None]:
            return f"{', '.join(tools)} not found on PATH"
        if programs := [each for each in ("build", "run") if not os.access(self.folder / each, os.X_OK)]:
            return f"{self.folder.name}/{' and '.join(programs)} is not there"
        return ""

    async def build(self) -> None:
        """Makes its runners.

        Raises:
            BuildFailed: it could not.
        """
        process = await asyncio.create_subprocess_exec(
            str(self.folder / "build"),
            cwd=self.folder,
            env=_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise BuildFailed(output.decode(errors="replace"))

    async def start(self, kind: str, errors: Path) -> asyncio.subprocess.Process:
        """Starts a runner; its standard error goes to a file."""
        with errors.open("wb") as file:
            return await asyncio.create_subprocess_exec(
                *(str(self.folder / "run"), kind),
                cwd=self.folder,
                env=_environment(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )


LANGUAGES: Mapping[str, Language] = {
    each.name: each
    for each in (
        Language("python"),
        Language("typescript", ("node", "npm")),
        Language("go", ("go",)),
        Language("java", ("java", "mvn")),
    )
}


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHON": sys.executable}
