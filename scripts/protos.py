"""The contract's tooling: generate the Python stubs, show drift, lint, and refuse what would break a caller.

Everything is offline: protoc comes with grpcio-tools, google's own protos with googleapis-common-protos, and buf reads
a descriptor image that protoc has made instead of fetching dependencies.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("midstream/v1")
STUBS = PROTOS / "python"
BUF_CONFIG = PROTOS / "buf.yaml"
BASELINE = PROTOS / "baseline.binpb"
GENERATED = "*_pb2*"


def run_protoc(*options: str, services_only: bool = False) -> None:
    """Runs the pinned protoc over the contract; exits with its message when it fails."""
    pattern = "*_service.proto" if services_only else "*.proto"
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob(pattern))
    if not sources:
        sys.exit(f"protos: no {pattern} in protos/{PACKAGE}")
    includes = (PROTOS, resources.files("grpc_tools") / "_proto", sysconfig.get_path("purelib"))
    if protoc.main(["protoc", *(f"--proto_path={folder}" for folder in includes), *options, *sources]) != 0:
        sys.exit("protos: protoc refused the contract")


def run_buf(*arguments: str) -> bool:
    """Runs buf and says whether it was content; what it complains about goes to standard output."""
    return subprocess.run([scripts_folder() / "buf", *arguments], check=False).returncode == 0


def scripts_folder() -> Path:
    return Path(sysconfig.get_path("scripts"))


def write_stubs(folder: Path) -> None:
    plugins = [f"--plugin={name}={scripts_folder() / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    run_protoc(f"--python_out={folder}", f"--mypy_out=quiet:{folder}", *plugins)
    run_protoc(f"--grpc_python_out={folder}", f"--mypy_grpc_out=quiet:{folder}", *plugins, services_only=True)


def write_image(path: Path, *, source_info: bool) -> None:
    options = ["--include_imports", f"--descriptor_set_out={path}"]
    run_protoc(*options, *(["--include_source_info"] if source_info else []))


def generate() -> bool:
    """Rewrites the committed stubs; a stub whose proto is gone goes too."""
    for path in (STUBS / PACKAGE).glob(GENERATED):
        path.unlink()
    write_stubs(STUBS)
    return True


def drift() -> bool:
    """True if the committed stubs are what the pinned generator makes of the protos."""
    with tempfile.TemporaryDirectory() as temporary:
        write_stubs(Path(temporary))
        fresh, committed = Path(temporary) / PACKAGE, STUBS / PACKAGE
        names = sorted({path.name for folder in (fresh, committed) for path in folder.glob(GENERATED)})
        _, different, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    for name in sorted(different + missing):
        print(f"protos/python/{PACKAGE / name}: not what `make protos` makes of the contract")
    return not different and not missing


def lint() -> bool:
    """True if buf has nothing to say against the contract; google's protos in the image are not asked."""
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / "contract.binpb"
        write_image(image, source_info=True)
        return run_buf("lint", str(image), "--config", str(BUF_CONFIG), *own_paths())


def breaking() -> bool:
    """True if no caller of the contract in the baseline would notice today's one."""
    if not BASELINE.exists():
        print("protos: no baseline yet (make protos-baseline), nothing to compare with")
        return True
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / "contract.binpb"
        write_image(image, source_info=True)
        config = str(BUF_CONFIG)
        against = ["--against", str(BASELINE), "--against-config", config]
        return run_buf("breaking", str(image), "--config", config, *against, *own_paths())


def own_paths() -> list[str]:
    return ["--path", PACKAGE.as_posix()]


def baseline() -> bool:
    """Takes today's contract as the one that later ones are compared with."""
    with tempfile.TemporaryDirectory() as temporary:
        image = Path(temporary) / BASELINE.name
        write_image(image, source_info=False)
        shutil.copyfile(image, BASELINE)
    return True


COMMANDS: dict[str, Callable[[], bool]] = {
    "generate": generate,
    "drift": drift,
    "lint": lint,
    "breaking": breaking,
    "baseline": baseline,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", choices=COMMANDS)
    contents = [COMMANDS[name]() for name in parser.parse_args().commands]
    return 0 if all(contents) else 1


if __name__ == "__main__":
    sys.exit(main())
