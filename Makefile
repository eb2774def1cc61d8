# Needs Python 3.11 and make; everything else comes from the lock files. `make` alone prints what there is.
SHELL := bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
# Compiled modules are kept, and in one place, even where the environment says not to write any: each of the many
# processes that the tests start would compile the whole program again.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
WEB := .venv/.web-installed
DEVELOPMENT := .venv/.development-installed
PROJECTS := service/pyproject.toml clients/python/pyproject.toml protos/python/pyproject.toml

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(RUNTIME) ## make .venv with .venv/bin/midstream in it

.PHONY: demo
demo: $(RUNTIME) ## stream from a real model on this machine, stop it midstream, keep the text
	@$(BIN)/midstream demo

.PHONY: serve
serve: $(RUNTIME) ## run the server on 127.0.0.1:50051
	@$(BIN)/midstream serve

.PHONY: test
test: $(DEVELOPMENT) ## run the tests (ARGS='-k cancel' goes to pytest)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(ARGS)

.PHONY: check
check: $(DEVELOPMENT) ## formatting, lint, types, import layers, contract: all that CI checks besides the tests
	@scripts/check.sh

.PHONY: format
format: $(DEVELOPMENT) ## format the Python code and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

.PHONY: protos
protos: $(DEVELOPMENT) ## regenerate the Python stubs from protos/
	@$(BIN)/python scripts/protos.py generate

.PHONY: descriptor
descriptor: $(DEVELOPMENT) ## write clients/web/midstream.binpb, which a transcoder reads the contract from
	@$(BIN)/python scripts/protos.py descriptor

.PHONY: protos-baseline
protos-baseline: $(DEVELOPMENT) ## take today's contract as the one that must not break (at a release)
	@$(BIN)/python scripts/protos.py baseline

.PHONY: bench
bench: $(DEVELOPMENT) ## cancel to closed, CPU per token, added latency (ARGS go to the benchmark)
	@PYTHONPATH=tests $(BIN)/python -m bench $(ARGS)

.PHONY: crash
crash: $(DEVELOPMENT) ## kill a real server 200 times under load, and hold what is left against what was seen
	@PYTHONPATH=tests $(BIN)/python -m crash $(ARGS)

.PHONY: race
race: $(DEVELOPMENT) ## 10,000 seeded interleavings on a deterministic loop; a failing seed reproduces
	@PYTHONPATH=tests $(BIN)/python -m race $(ARGS)

.PHONY: restart
restart: $(DEVELOPMENT) ## how long a restart takes beside an hour-long run and 100,000 short ones
	@PYTHONPATH=tests $(BIN)/python -m restart $(ARGS)

.PHONY: outage
outage: $(DEVELOPMENT) ## a disk that is full for 36 s: what callers are told, how soon a cancel closes the upstream
	@PYTHONPATH=tests $(BIN)/python -m outage $(ARGS)

.PHONY: replicas
replicas: $(DEVELOPMENT) ## several replicas on a real Valkey: killed, paused, cut off, failed over (ARGS='cancel --seed 1')
	@PYTHONPATH=tests $(BIN)/python -m replicas $(ARGS)

.PHONY: interop
interop: $(DEVELOPMENT) ## every client and bare stubs, in every language, through the same scenarios (ARGS='--languages go')
	@GRPC_ENABLE_FORK_SUPPORT=false GRPC_VERBOSITY=NONE PYTHONPATH=tests $(BIN)/python -m interop $(ARGS)

.PHONY: clients
clients: $(DEVELOPMENT) ## the clients' own tests, lint and examples in Go, TypeScript and Java (ARGS='go' for one)
	@scripts/clients.sh $(ARGS)

.PHONY: web
web: $(WEB) ## run the Envoy configuration and the examples for curl and browsers (needs Node)
	@tests/web/build
	@PYTHONPATH=tests $(BIN)/python -m web $(ARGS)

.PHONY: image-check
image-check: $(DEVELOPMENT) ## build the Dockerfile and run it, without a Docker engine (root, buildah, debootstrap)
	@scripts/image-check.sh

.PHONY: lock
lock: $(RUNTIME) ## resolve both lock files again (ARGS='--upgrade' for newer versions)
	@scripts/lock.sh $(ARGS)

.PHONY: clean
clean: ## remove .venv and every cache
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): requirements.lock $(PROJECTS) scripts/install.sh
	@scripts/install.sh requirements.lock
	@touch $@

# requirements-dev.lock holds everything that requirements.lock does, in the same versions.
$(DEVELOPMENT): requirements-dev.lock $(PROJECTS) scripts/install.sh
	@scripts/install.sh requirements-dev.lock
	@touch $@ $(RUNTIME)

$(WEB): $(DEVELOPMENT) tests/web/requirements.lock
	@scripts/install.sh tests/web/requirements.lock
	@touch $@
