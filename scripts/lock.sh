#!/usr/bin/env bash
# Resolves requirements.lock and requirements-dev.lock: names, versions and hashes, no address.
# Arguments go to uv, for example: scripts/lock.sh --upgrade-package httpx
set -euo pipefail
cd "$(dirname "$0")/.."

if ! uv=$(command -v uv); then
    tools=.venv/lock-tools
    [ -x "$tools/bin/uv" ] || { .venv/bin/python -m venv "$tools" && "$tools/bin/pip" install --quiet uv; }
    uv=$tools/bin/uv
fi

resolve() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-annotate --custom-compile-command "make lock" --override requirements-overrides.txt --extra local \
        "$@" protos/python/pyproject.toml clients/python/pyproject.toml service/pyproject.toml requirements.in
}

resolve --output-file requirements.lock "$@"
resolve --output-file requirements-dev.lock --constraint requirements.lock "$@" requirements-dev.in
