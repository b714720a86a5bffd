# Every target sets up what it needs: a machine with Python 3.11 or newer and a network (or wheels that pip can find) is enough.
#   make demo        evaluate the shipped models, distil a small decomposer from them, print both tables
#   make test        the fast tests        make test-slow   the rest
#   make check       format, lint, types and layout
#   PYTHON=...       another interpreter   VENV=...         another place for the environment

SHELL := /bin/bash
VENV ?= .venv
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13 python,$(if $(shell $(name) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>/dev/null | grep True),$(name))))
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check install

# Public data sets, where a copy lies beside the checkout; tests that need them skip without.
ifneq ($(wildcard ../shared/data/README.md),)
export CLEAVE_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow peers check format clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

venv: $(STAMP) ## install everything into .venv

# torch goes first and by its exact pin, so that a CPU build offered by pip's own settings wins over a newer one with CUDA.
$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "error: Cleave needs Python 3.11 or newer; install it, or name it: make PYTHON=/path/to/python3.11 venv." >&2; exit 2; fi
	@if [ ! -x $(BIN)/python ]; then echo "Creating $(VENV) with $(PYTHON) ..." >&2; $(PYTHON) -m venv $(VENV); fi
	@echo "Installing Cleave and what it needs into $(VENV) (minutes the first time) ..." >&2
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## evaluate the shipped models, then collect, distil a student and compare
	@$(BIN)/python -m cleave evaluate configs/evaluate/demo.yaml
	@$(BIN)/python -m cleave study configs/studies/demo.yaml

test: $(STAMP) ## run the fast tests
	@$(BIN)/python -m pytest

test-slow: $(STAMP) ## run the tests that take minutes
	@$(BIN)/python -m pytest -m slow

# Clients whose pins are not ours, each in an environment of its own; the slow tests that need them skip without.
PEERS := build/venvs
peers: $(PEERS)/lm-eval/.installed $(PEERS)/schemathesis/.installed ## install lm-eval and schemathesis, as clients of test-slow

$(PEERS)/lm-eval/.installed: REQUIREMENT := lm_eval[api]==0.4.13
$(PEERS)/schemathesis/.installed: REQUIREMENT := schemathesis==4.32.5
$(PEERS)/%/.installed:
	@if [ ! -x $(@D)/bin/python ]; then echo "Creating $(@D) ..." >&2; $(PYTHON) -m venv $(@D); fi
	@$(@D)/bin/python -m pip -qq --disable-pip-version-check install '$(REQUIREMENT)'
	@touch $@

check: $(STAMP) ## format, lint, types, layout
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_layout.py tests/test_imports.py

format: $(STAMP) ## rewrite the files in the agreed format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## remove caches (keeps .venv and runs/)
	@rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
