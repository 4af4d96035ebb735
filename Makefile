# The few commands that work on Carwright. What `carwright` itself can do: .venv/bin/carwright --help

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# What a recipe runs is installed: no Python takes modules from the folder that make stands in.
export PYTHONSAFEPATH := 1
.DEFAULT_GOAL := help
.PHONY: help ship check test test-all fuzz lint format docs lock shell images dry-run dry-run-down bench release clean

# The newest that is here and can make environments; another one: make PYTHON=/path/to/python .venv
PYTHON ?= $(or $(firstword $(foreach python,python3.14 python3.13 python3.12 python3.11,\
    $(shell $(python) -c 'import ensurepip; print("$(python)")' 2>/dev/null))),python3.11)
BIN := .venv/bin
TESTS ?= tests
EXAMPLES ?= 10000
# Unit tests wait for processes and timers, too: half as many workers again as processors.
UNIT_WORKERS ?= $(shell echo $$(( ($$(nproc) * 3 + 1) / 2 )))

help: ## show this
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv: tests/requirements.lock pyproject.toml ## make the virtual environment, exactly as locked
	$(PYTHON) -m venv --clear .venv
	@touch -d @0 .venv # until all is installed, the next make begins again
	PIP_CONSTRAINT=/dev/null PIP_USER=0 $(BIN)/python -m pip install --quiet --no-deps --require-hashes --only-binary=:all: --no-compile --progress-bar=off -r tests/requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@# Relative: in the locale C Python 3.11 reads this file as ASCII, and the checkout may lie anywhere.
	@echo ../../../.. > $$(ls .venv/lib/python3.*/site-packages/_editable_impl_carwright.pth)
	@touch .venv

ship: .venv ## ship a model: make ship MODEL=hf://org/name
	$(BIN)/carwright ship $(MODEL)

check: lint ## the loop while you work: style, types and unit tests
	$(BIN)/python -m pytest -n $(UNIT_WORKERS) -q -m "not campaign" tests/test_architecture.py tests/unit tests/fuzz

test: .venv ## every test that must hold before a change lands; some: make test TESTS=tests/unit
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=40 -m "not campaign" $(TESTS)

test-all: .venv ## every test, the long campaigns included (hours)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=40 $(TESTS)

fuzz: .venv ## try the parsers of foreign bytes with many examples: make fuzz EXAMPLES=1000000
	ulimit -v 4194304 && FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n auto -q --timeout 0 --hypothesis-profile=fuzz tests/fuzz

lint: .venv ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv ## put the code in its one format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

docs: .venv ## write the pages that are made from the code
	$(BIN)/python -m infra.settings_page > docs/reference/settings.md

lock: .venv ## make every requirements.lock again (LOCK=--upgrade for newer versions)
	$(BIN)/python -m infra.lock $(LOCK)

shell: .venv ## compile the shell in the base of modelcars again, to the bytes that are in the repository
	$(BIN)/python -m infra.modelcar_shell

images: .venv ## build the container images and give them to the local engine
	$(BIN)/carwright images load

dry-run: images ## ship the demo with a container for each step, under a Prefect server
	$(BIN)/carwright dry-run up $(RUN)

dry-run-down: .venv ## take the dry run away; what it stored, too: VOLUMES=--volumes
	$(BIN)/carwright dry-run down $(VOLUMES)

bench: .venv ## measure
	@for bench in tests/bench/[a-z]*.py; do $(BIN)/python -m "tests.bench.$$(basename "$$bench" .py)"; done

release: .venv ## build the wheel and the sdist, and check both
	$(BIN)/python -m infra.release

clean: ## remove what was made here, the environment included
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
