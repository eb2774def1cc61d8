"""The scripts: one for each conditional write, executed by the server as one step.

They are sent by their digest; a server that does not know one is told its text. Keys that a script builds itself begin
with the one that it is given, so they are in the same slot.
"""

import hashlib
from dataclasses import dataclass
from importlib.resources import files

_FOLDER = files("midstream_server.stores") / "lua"
_COMMON = "common.lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the name that servers know it by."""

    text: str
    digest: str


def load_scripts(*, sharded_messages: bool) -> dict[str, Script]:
    """All scripts by name, for servers that have sharded messages or not."""
    publish = "SPUBLISH" if sharded_messages else "PUBLISH"
    common = f"local PUBLISH = '{publish}'\n" + (_FOLDER / _COMMON).read_text()
    return {
        path.name.removesuffix(".lua"): _script(common + path.read_text())
        for path in sorted(_FOLDER.iterdir(), key=lambda path: path.name)
        if path.name.endswith(".lua") and path.name != _COMMON
    }


def _script(text: str) -> Script:
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
