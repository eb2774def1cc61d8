"""Where the recorded provider streams are: outside the repository, because they are not ours to publish."""

import os
from pathlib import Path

SETTING = "MIDSTREAM_SHARED_FIXTURES"
BESIDE_THE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "fixtures"
ABSENT = f"no recorded provider streams: set {SETTING} to their folder (looked at {BESIDE_THE_CHECKOUT})"


def recordings_folder() -> Path | None:
    """The folder of recorded provider streams, or None where this machine has none.

    Raises:
        FileNotFoundError: the setting names a folder that is not there, or this is CI, where they must be.
    """
    setting = os.environ.get(SETTING)
    folder = Path(setting) if setting else BESIDE_THE_CHECKOUT
    if folder.is_dir():
        return folder
    if setting or os.environ.get("CI") == "true":
        raise FileNotFoundError(f"{ABSENT}; {SETTING}={setting or ''}")
    return None
