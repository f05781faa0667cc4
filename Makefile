# Two commands on a machine with Python, pip and make:
#   make demo   install into .venv, train the built-in experiment without penalty, with gram and with lsh, print a table
#   make test   the same installation, then the whole test suite
# Both can be repeated; an existing installation is kept.

PYTHON ?= python3
VENV ?= .venv
CIFAR10 ?= data/cifar10
BIN := $(VENV)/bin
# one process a core, each with one thread; the tests of a file share what they prepare
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

.PHONY: help install demo test test-slow test-oldest tutorials check format clean

help:
	@sed -n '1,4p' Makefile

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

# The fast part of the suite on the lower bounds of pyproject.toml, on the oldest Python where there is one.
OLDEST := .venv-oldest
OLDEST_PYTHON ?= $(or $(shell command -v python3.10),$(PYTHON))
OLDEST_EXTRAS := sentence-transformers,faiss,scikit-learn,arrow,geotorch,modelnet,peft,zoo,wandb,mlflow,sweep
OLDEST_TOOLS := pytest pytest-xdist hypothesis lightning "jsonargparse[signatures]"
FAST ?= tests/functional tests/layers tests/callbacks tests/models tests/nn tests/data tests/integrations \
  $(filter-out tests/test_docs%.py tests/test_layer_docs.py,$(wildcard tests/test_*.py))

test-oldest: $(OLDEST)/.installed
	@echo "Running the fast part of the suite on the oldest supported versions ..."
	@OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 1 --disable-warnings $(FAST)

$(OLDEST)/.installed: pyproject.toml tests/oldest.txt
	@echo "Installing the oldest supported versions into $(OLDEST) (6.3 GB with a CUDA build of torch) ..."
	@test -x $(OLDEST)/bin/python || $(OLDEST_PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint tests/oldest.txt --editable ".[$(OLDEST_EXTRAS)]" $(OLDEST_TOOLS)
	@touch $@

tutorials: install
	@echo "Running the tutorials and writing what they print and draw into their pages ..."
	@CIFAR10=$(abspath $(CIFAR10)) OMP_NUM_THREADS=1 $(BIN)/python scripts/tutorials.py

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
