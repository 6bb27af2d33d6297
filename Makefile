# `make demo` and `make test` are all that a fresh clone needs; each sets everything up first.

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs clean

help:
	@echo "make setup   everything into $(VENV): the package, its extras, the encoders"
	@echo "make demo    set up, and predict sample utterances with the model of the package"
	@echo "make test    set up, and run the tests on JOBS=$(JOBS) cores"
	@echo "make check   set up, and check lint, format, types and the generated docs"
	@echo "make format  mend lint and format"
	@echo "make docs    generate anew the pages that are generated"
	@echo "make clean   remove $(VENV) and what tools have left; never runs/ or the encoders"

setup: $(READY)
	@$(BIN)/mmolre encoders fetch > /dev/null

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python >= 3.11 is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 setup")'
	@$(BIN)/python -c 'import pip' 2> /dev/null || { rm -rf $(VENV); $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); exit 1; }
	@echo "Installing into $(VENV): some minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/mmolre demo

test: setup
	$(BIN)/python -m pytest -n $(JOBS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python scripts/cli_docs.py --check
	@test ! -d results || $(BIN)/python scripts/make_results.py --check

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python scripts/cli_docs.py
	@test ! -d results || $(BIN)/python scripts/make_results.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
