#!/usr/bin/env bash
# Makes .venv from a lock file and puts this checkout's three packages into it, editable.
# usage: scripts/install.sh requirements.lock|requirements-dev.lock
set -euo pipefail
cd "$(dirname "$0")/.."
lock=$1
venv=.venv

fail() {
    printf 'install: %s\n' "$@" >&2
    exit 1
}

# A name on PATH proves nothing (a version manager's shim may stand for a version that is not there), so each is run.
find_python() {
    local name
    for name in ${PYTHON:-python3.11 python3 python}; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 found (looked for ${PYTHON:-python3.11, python3, python}); install it, or name it: make PYTHON=/path/to/python3.11"
}

make_venv() {
    local python output
    python=$(find_python)
    rm -rf "$venv"
    if command -v uv >/dev/null && "$python" -m venv --without-pip "$venv" 2>/dev/null; then
        return
    fi
    if ! output=$("$python" -m venv "$venv" 2>&1); then
        rm -rf "$venv"
        fail "$python cannot make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv). It said:" "$output"
    fi
}

# uv where it is at hand, because it is faster; pip does the same.
install_packages() {
    if command -v uv >/dev/null && uv pip install --quiet --python "$venv/bin/python" "$@"; then
        return
    fi
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
    "$venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check "$@"
}

"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || make_venv
echo "install: $lock into $venv" >&2
install_packages --no-deps --require-hashes -r "$lock"
install_packages --no-deps --no-build-isolation -e protos/python -e clients/python -e service
