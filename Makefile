# make demo   see it work          make test    the whole test suite
# make up     run it here          make check   format, lint, types, layers, fast tests

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The index with the CPU build; --no-deps keeps CUDA packages out also where it is out of reach and
# the default build comes instead. For CUDA see the README.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0
DEMO_ARGS ?=
EXAMPLE_ARGS ?=
TEST_ARGS ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALLED := .venv/installed

.PHONY: help install demo example-insurance example-frankenstein up test check bench lock table clean

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with PYTHON=..."; exit 1; }
	@echo "[1/4] a virtual environment in .venv"
	@rm -f $(INSTALLED)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "The venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "[2/4] $(TORCH)"
	@$(PIP) install --no-deps --retries 1 --extra-index-url $(TORCH_INDEX) $(TORCH)
	@echo "[3/4] the other packages, as pinned in requirements/dev.txt"
	@$(PIP) install --no-deps --require-hashes -r requirements/dev.txt
	@echo "[4/4] lethe itself"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(INSTALLED)

demo: install
	@$(BIN)/lethe demo $(DEMO_ARGS)

example-insurance: install
	@$(BIN)/python -m examples.insurance $(EXAMPLE_ARGS)

example-frankenstein: install
	@$(BIN)/python -m examples.frankenstein $(EXAMPLE_ARGS)

up: install
	@$(BIN)/lethe up

test: install
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy app workers lethe demo examples benchmarks migrations tests
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet --numprocesses 2 -m "not slow and not gpu" tests/unit

bench: install
	@for script in benchmarks/bench_*.py; do $(BIN)/python -m "benchmarks.$$(basename "$$script" .py)"; done

# The locks are universal for Linux and leave torch out; its requirements are in pyproject.toml.
COMPILE := $(BIN)/uv pip compile --quiet pyproject.toml --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-package torch

lock: install
	$(COMPILE) --all-extras -o requirements/dev.txt
	$(COMPILE) -c requirements/dev.txt -o requirements/api.txt
	$(COMPILE) -c requirements/dev.txt --extra worker --extra s3 -o requirements/worker.txt

table: install
	$(BIN)/python -m lethe.methods --write README.md

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
