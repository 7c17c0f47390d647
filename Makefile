# SPDX-License-Identifier: Apache-2.0
# Everything runs in .venv, which the targets make for themselves from pinned wheels.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml packaging/tightseal-sim/pyproject.toml
VECTORS := $(or $(TIGHTSEAL_VECTORS),../shared/vectors)

.DEFAULT_GOAL := help
.PHONY: help demo serve test unit lint soak fuzz bench lock docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/run ## the main job, end to end, in a simulated world
	@$(BIN)/python -m tightseal_sim.demo --vectors "$(VECTORS)"

serve: $(VENV)/run ## leave a provider running to play with
	@$(BIN)/python -m tightseal_sim.playground

test: lint unit ## lint, types and every test (15 minutes at most)

unit: $(VENV)/dev ## the tests alone
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/dev ## lint, types, architecture, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tightseal.cli.reference --check

soak: $(VENV)/dev ## the long runs
	$(BIN)/python -m pytest -m soak

fuzz: $(VENV)/dev ## fuzz every parser; RUNS=N for each
	$(BIN)/python tests/fuzz/run.py --runs $(or $(RUNS),100000)

bench: $(VENV)/dev ## every figure that the documentation gives
	$(BIN)/python benchmarks/verify.py
	$(BIN)/python benchmarks/policy.py
	$(BIN)/python benchmarks/state.py
	$(BIN)/python benchmarks/keyring.py
	$(BIN)/python benchmarks/release.py
	$(BIN)/python benchmarks/load.py

docs: $(VENV)/dev ## rewrite the generated parts of the documentation
	$(BIN)/python -m tightseal.cli.reference --write

lock: ## resolve the pinned wheels anew (needs uv)
	uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--only-binary :all: pyproject.toml requirements/run.in -o requirements/run.txt
	uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--only-binary :all: pyproject.toml requirements/run.in \
		--group test --group lint -o requirements/dev.txt

clean: ## remove what the targets made
	rm -rf $(VENV) .tightseal .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run: requirements/run.txt $(SOURCES) | $(VENV)/bin/python
	@echo "installing the pinned wheels"
	@$(PIP) install --only-binary :all: --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e . -e packaging/tightseal-sim
	@touch $@

$(VENV)/dev: requirements/dev.txt $(VENV)/run
	@echo "installing the tools of the tests"
	@$(PIP) install --only-binary :all: --require-hashes -r requirements/dev.txt
	@touch $@
