# Commands on a machine with Python, pip and make:
#   make demo   install into .venv, train the built-in experiment without penalty, with gram and with lsh, print a table
#   make test   the same installation, then the whole test suite
#   make docs   install into .venv, build the documentation into build/docs
# All can be repeated; an existing installation is kept.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# one process a core, each with one thread; the tests of a file share what they prepare
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: help install demo test test-slow docs check format clean

help:
	@sed -n '1,5p' Makefile

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@echo "Installing ortho-lightning and its dependencies into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test,dev]"
	@touch $@

demo: install
	@echo "Comparing no penalty, gram and lsh on procedural point clouds (a few minutes) ..."
	@$(BIN)/python scripts/compare.py experiment=shapes

test: install
	@echo "Running the test suite ..."
	@$(PYTEST)

test-slow: install
	@echo "Running the tests that take minutes ..."
	@$(PYTEST) -m slow

docs: $(VENV)/.installed-docs
	@echo "Building the documentation into build/docs ..."
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --write-all -b html docs build/docs
	@echo "Open build/docs/index.html"

$(VENV)/.installed-docs: pyproject.toml
	@echo "Installing ortho-lightning and Sphinx into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	@touch $@

check: install
	@echo "Checking format, lint, types and the order of imports ..."
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
