# One place for every task. The environment in .venv is made on the first call that needs it and
# made again when pyproject.toml changes; `make demo PYTHON=python3.12` picks another Python.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.installed-demo
DEV_READY := $(VENV)/.installed-dev
PACKAGES := cycledistill integrations/cycledistill_pose integrations/cycledistill_deit

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check tests docs bench format install

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(DEMO_READY) ## train a small model on generated images and say what happened
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python examples/pose_coco.py

test: check tests docs ## everything that must pass: check, tests, docs

check: $(DEV_READY) ## lint, format check, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) examples experiments
	$(BIN)/lint-imports --no-logo

tests: $(DEV_READY) ## the tests and every docstring example, JOBS=2 at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=15

docs: $(DEV_READY) ## build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(DEV_READY) ## measure ratios of speed, print a table and save it in runs/
	$(BIN)/python benchmarks/run.py

format: $(DEV_READY) ## put code into the format that check asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(DEV_READY) ## make .venv with everything for development

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: there is no '$(PYTHON)' here; cycledistill needs Python 3.10 or newer." >&2; \
	  echo "Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: cycledistill needs Python 3.10 or newer; '$(PYTHON)' is" \
	    "$$("$(PYTHON)" -c 'import sys; print(*sys.version_info[:3], sep=".")')." >&2; \
	  echo "Name a newer one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments." >&2; \
	  echo "Install its venv module (on Debian and Ubuntu: the package python3-venv)." >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)"

$(DEMO_READY): pyproject.toml | $(BIN)/python
	@rm -f $@
	@echo "Installing into $(VENV): PyTorch and what the demo needs. This takes minutes, once:" \
	  "with PyTorch's CUDA libraries (the default on Linux) it is several GB."
	@$(BIN)/python -m pip install --quiet --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --quiet --editable ".[pose,deit]"
	@touch $@

$(DEV_READY): pyproject.toml | $(BIN)/python
	@rm -f $@
	@echo "Installing into $(VENV): PyTorch and the tools for development. This takes minutes," \
	  "once: with PyTorch's CUDA libraries (the default on Linux) it is several GB."
	@$(BIN)/python -m pip install --quiet --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --quiet --editable ".[dev]"
	@touch $@ $(DEMO_READY)
