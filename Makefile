# The same words on a developer's machine and in CI; `make` alone prints them.
# A fresh machine needs Python 3.11 to 3.13 with venv, make and git: no root, no Docker.

VENV := .venv
BIN := $(VENV)/bin

# Arguments for the command behind a target: make demo ARGS="--exit"; make test ARGS="-k flower".
ARGS ?=

# One process more than there are cores, since many tests wait for an event, but no more than four: each may start
# servers and load a network. A file is one process's, so what its tests share is made once (xdist 3.8 overlooks its
# groups under pytest 9.2). Files go in their order: those that take longest, of integration/, come first.
PYTEST_ARGS ?= -n $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))') \
    --dist loadfile --no-loadscope-reorder

# The first of the usual names that is a Python we support; make PYTHON=/path/to/python3.12 goes before it.
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(or $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
    $(shell $(name) -c '$(SUPPORTED)' 2>/dev/null && echo $(name)))),python3)

# Only files whose hash a lock file names, and only wheels: building from source would fetch unlocked build tools.
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL_LOCKED := $(PIP) install --quiet --require-hashes --only-binary :all: -r config/locks/build.txt
INSTALL_PIXELHERD := $(PIP) install --quiet --no-deps --no-build-isolation --editable .

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test fleet check integration bench lock clean

help: ## Print what make can do here
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/demo.stamp ## From a bucket to Parquet on this machine, until Ctrl-C (ARGS="--exit", ARGS="--images DIR")
	@$(BIN)/pixelherd demo $(ARGS)

test: check $(if $(CI),$(VENV)/ci.stamp) ## Install what the tests need, run check, then every test (ARGS="-k name")
	$(BIN)/python -m pytest $(PYTEST_ARGS) --ignore tests/ansible $(ARGS)

fleet: $(VENV)/fleet.stamp ## Test the playbooks against a mock of AWS and on machines with systemd (installs Ansible, 0.8 GB)
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/ansible $(ARGS)

check: $(VENV)/dev.stamp ## Lint, format, types and import rules: ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

integration: $(VENV)/dev.stamp ## Only the tests against real servers
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/integration $(ARGS)

bench: $(VENV)/dev.stamp ## Measure the figures of the README on this machine
	$(BIN)/python -m benchmarks.throughput $(ARGS)

chaos: $(VENV)/dev.stamp ## Let 100 things go wrong in runs on real servers, and count rows (ARGS="--seed 7 --faults 30")
	$(BIN)/python -m benchmarks.chaos $(ARGS)

# One resolution, dev.txt, holds every version; the others are parts of it. Pins stay where they can (ARGS="--upgrade").
LOCK := $(BIN)/uv pip compile --quiet --system-certs --universal --python-version 3.11 --fork-strategy fewest \
    --generate-hashes --no-emit-index-url --annotation-style line --custom-compile-command "make lock"
PART := $(LOCK) --no-annotate --constraint config/locks/dev.txt

lock: $(VENV)/dev.stamp ## Resolve pyproject.toml again into config/locks (ARGS="--upgrade" for newer versions)
	$(LOCK) $(ARGS) pyproject.toml --extra worker --extra flower --extra local --extra dev -o config/locks/dev.txt
	$(PART) pyproject.toml --extra worker --extra flower --extra local -o config/locks/demo.txt
	$(PART) pyproject.toml -o config/locks/core.txt
	$(PART) pyproject.toml --extra flower -o config/locks/flower.txt
	$(PART) pyproject.toml --extra worker -o config/locks/worker.txt
	$(PART) $(ARGS) pyproject.toml --extra gpu -o config/locks/gpu.txt
	$(PART) --group build -o config/locks/build.txt
	$(PART) $(ARGS) --group ci -o config/locks/ci.txt
	$(PART) $(ARGS) --group fleet -o config/locks/fleet.txt

clean: ## Remove what make has made: the virtual environment, caches, builds
	rm -rf $(VENV) build dist pixelherd.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
	    echo "pixelherd needs Python 3.11, 3.12 or 3.13 with its venv module (Debian: python3-venv)." >&2; \
	    echo "Found: $(PYTHON), $$($(PYTHON) --version 2>&1 | tail -n 1). Another one: make PYTHON=/path/to/python3.12" >&2; \
	    exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)

# A stamp is older than its lock file exactly when the lock has changed since the last installation.
$(VENV)/demo.stamp: config/locks/build.txt config/locks/demo.txt pyproject.toml | $(BIN)/python
	@echo "Installing the pinned dependencies into $(VENV): once, a few minutes" >&2
	@$(INSTALL_LOCKED) -r config/locks/demo.txt
	@$(INSTALL_PIXELHERD)
	@touch $@

$(VENV)/dev.stamp: config/locks/build.txt config/locks/dev.txt pyproject.toml | $(BIN)/python
	@echo "Installing the pinned dependencies and the test tools into $(VENV): once, a few minutes" >&2
	@$(INSTALL_LOCKED) -r config/locks/dev.txt
	@$(INSTALL_PIXELHERD)
	@touch $@

$(VENV)/ci.stamp: config/locks/ci.txt $(VENV)/dev.stamp
	@$(INSTALL_LOCKED) -r config/locks/ci.txt
	@touch $@

$(VENV)/fleet.stamp: config/locks/fleet.txt $(VENV)/dev.stamp
	@$(INSTALL_LOCKED) -r config/locks/fleet.txt
	@touch $@
