#!/usr/bin/env bash
# Every check besides the tests, each of them even if an earlier one failed. A quiet line per check that is content.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=()

check() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        printf 'ok      %s\n' "$name"
    else
        printf 'FAILED  %s\n%s\n\n' "$name" "$output"
        failed+=("$name")
    fi
}

check format $bin/ruff format --check
check lint $bin/ruff check
check types $bin/mypy
check layers $bin/lint-imports --no-logo
check dockerfile $bin/hadolint Dockerfile
check proto-drift $bin/python scripts/protos.py drift
check proto-lint $bin/python scripts/protos.py lint
check proto-breaking $bin/python scripts/protos.py breaking

if [ ${#failed[@]} -gt 0 ]; then
    printf 'check: %s\n' "${failed[*]}"
    exit 1
fi
