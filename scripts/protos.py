"""The contract's tooling: generate the Python and Go stubs, show drift, lint, and refuse what would break a caller.

Everything for Python is offline: protoc comes with grpcio-tools, google's own protos with googleapis-common-protos, and
buf reads a descriptor image that protoc has made instead of fetching dependencies. The Go plugins are those that
protos/go/go.mod pins as tools; where there is no Go, the Go stubs are left as they are and not compared.
"""

import argparse
import filecmp
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("midstream/v1")
STUBS = PROTOS / "python"
GO_STUBS = PROTOS / "go"
GO_PACKAGE = "github.com/midstream-dev/midstream/protos/go"
GO_PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
)
BUF_CONFIG = PROTOS / "buf.yaml"
BASELINE = PROTOS / "baseline.binpb"
DESCRIPTOR = ROOT / "clients" / "web" / "midstream.binpb"
GENERATED = "*_pb2*"
GO_GENERATED = "*.pb.go"


def run_protoc(*options: str, services_only: bool = False, others: Sequence[str] = ()) -> None:
    """Runs the pinned protoc over the contract, and other protos; exits with its message when it fails."""
    pattern = "*_service.proto" if services_only else "*.proto"
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob(pattern))
    if not sources:
        sys.exit(f"protos: no {pattern} in protos/{PACKAGE}")
    includes = (PROTOS, resources.files("grpc_tools") / "_proto", sysconfig.get_path("purelib"))
    if protoc.main(["protoc", *(f"--proto_path={folder}" for folder in includes), *options, *sources, *others]) != 0:
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


def write_go_stubs(folder: Path) -> None:
    """Says by options which Go package the files are: the contract itself stays free of languages."""
    sources = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))
    packages = ",".join(f"M{source}={GO_PACKAGE}/{PACKAGE};midstreamv1" for source in sources)
    options = f"module={GO_PACKAGE},{packages}"
    with tempfile.TemporaryDirectory() as binaries:
        subprocess.run(["go", "-C", str(GO_STUBS), "build", "-o", f"{binaries}/", *GO_PLUGINS], check=True)
        plugins = [f"--plugin={Path(each).name}={binaries}/{Path(each).name}" for each in GO_PLUGINS]
        run_protoc(f"--go_out={options}:{folder}", f"--go-grpc_out={options}:{folder}", *plugins)


def has_go() -> bool:
    if shutil.which("go"):
        return True
    print("protos: no go here, the Go stubs are left alone")
    return False


def write_image(path: Path, *, source_info: bool) -> None:
    options = ["--include_imports", f"--descriptor_set_out={path}"]
    run_protoc(*options, *(["--include_source_info"] if source_info else []))


def generate() -> bool:
    """Rewrites the committed stubs; a stub whose proto is gone goes too."""
    for path in (STUBS / PACKAGE).glob(GENERATED):
        path.unlink()
    write_stubs(STUBS)
    if has_go():
        for path in (GO_STUBS / PACKAGE).glob(GO_GENERATED):
            path.unlink()
        write_go_stubs(GO_STUBS)
    return True


def drift() -> bool:
    """True if the committed stubs are what the pinned generators make of the protos."""
    python = is_fresh(STUBS, write_stubs, GENERATED)
    return (not has_go() or is_fresh(GO_STUBS, write_go_stubs, GO_GENERATED)) and python


def is_fresh(stubs: Path, write: Callable[[Path], None], pattern: str) -> bool:
    with tempfile.TemporaryDirectory() as temporary:
        write(Path(temporary))
        fresh, committed = Path(temporary) / PACKAGE, stubs / PACKAGE
        names = sorted({path.name for folder in (fresh, committed) for path in folder.glob(pattern)})
        _, different, missing = filecmp.cmpfiles(fresh, committed, names, shallow=False)
    for name in sorted(different + missing):
        print(f"{(stubs / PACKAGE / name).relative_to(ROOT)}: not what `make protos` makes of the contract")
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


def descriptor() -> bool:
    """Writes what a transcoder of JSON needs: the contract, and the details that its errors carry."""
    run_protoc(f"--descriptor_set_out={DESCRIPTOR}", "--include_imports", others=["google/rpc/error_details.proto"])
    return True


COMMANDS: dict[str, Callable[[], bool]] = {
    "generate": generate,
    "drift": drift,
    "lint": lint,
    "breaking": breaking,
    "baseline": baseline,
    "descriptor": descriptor,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+", choices=COMMANDS)
    contents = [COMMANDS[name]() for name in parser.parse_args().commands]
    return 0 if all(contents) else 1


if __name__ == "__main__":
    sys.exit(main())
