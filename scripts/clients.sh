#!/usr/bin/env bash
# What the clients in Go, TypeScript and Java check by themselves: format, lint, tests, and the examples of their READMEs
# against a real server. Python's are in `make test`. Arguments name languages; each runs even if an earlier one failed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=$PWD/.venv/bin/python
failed=()
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# One step: silent if it is content. Its output goes to a file: a pipe would be waited for as long as anything that it
# left behind has it open.
check() {
    local name=$1 folder=$2 started=$SECONDS
    shift 2
    if (cd "$folder" && "$@") > "$output" 2>&1; then
        printf 'ok      %s (%d s)\n' "$name" $((SECONDS - started))
    else
        printf 'FAILED  %s\n%s\n\n' "$name" "$(< "$output")"
        failed+=("$name")
    fi
}

# Whether the programs that a language needs are here; says so if not.
needs() {
    local language=$1 missing=() program
    shift
    for program in "$@"; do
        command -v "$program" > /dev/null || missing+=("$program")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        printf 'FAILED  %s: not found on PATH: %s\n' "$language" "${missing[*]}"
        failed+=("$language")
        return 1
    fi
}

go_is_formatted() { [ -z "$(gofmt -l . | tee /dev/stderr)" ]; }

install_node_modules() {
    if [[ ! -f node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
        npm ci --no-audit --no-fund --ignore-scripts && touch node_modules/.package-lock.json
    fi
}

go_client() {
    needs go go gofmt gcc || return
    check 'go format' clients/go go_is_formatted
    check 'go vet' clients/go go vet ./...
    check 'go test, for races' clients/go env CGO_ENABLED=1 go test -race -timeout 5m ./...
    check 'go format, scenarios' tests/interop/go go_is_formatted
    check 'go vet, scenarios' tests/interop/go go vet ./...
    check 'go examples' tests/interop/go go test -count=1 ./...
}

typescript_client() {
    needs typescript node npm || return
    check 'typescript packages' clients/typescript install_node_modules
    check 'typescript lint' clients/typescript npm run --silent lint
    check 'typescript test' clients/typescript npm test --silent
}

java_client() {
    needs java java mvn || return
    check 'java test' clients/java mvn --quiet --batch-mode test
    check 'java examples' . env PYTHONPATH=tests "$PYTHON" -m interop.java.readme
}

for language in "${@:-go typescript java}"; do
    for each in $language; do
        case $each in
            go | typescript | java) "${each}_client" ;;
            *) printf 'FAILED  %s: not a client of these: go typescript java\n' "$each" && failed+=("$each") ;;
        esac
    done
done

if [ ${#failed[@]} -gt 0 ]; then
    printf 'clients: %s\n' "$(IFS=';' && echo "${failed[*]}")"
    exit 1
fi
