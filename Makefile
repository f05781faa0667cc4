# Commands on a machine with Python, pip and make:
#   make demo   install into .venv, train the built-in experiment without a penalty, with gram and with lsh, print a table
#   make test   install what the tests need as well, then run the whole test suite
#   make docs   install into .venv, build the documentation into build/docs
# All can be repeated; an existing installation is kept. More seeds: make demo SEEDS=[0,1,2]

PYTHON ?= python3
VENV ?= .venv
CIFAR10 ?= data/cifar10
SEEDS ?= [0]
BIN := $(VENV)/bin
# one process a core, each with one thread; the tests of a file share what they prepare
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
# megabytes, from du -sm on Linux x86-64 with Python 3.11 and the CUDA build of torch 2.14: 5895 and 7130 MiB
PACKAGE_MB := 6200
ALL_MB := 7500

# two installations into one environment at a time would spoil it
.NOTPARALLEL:

.PHONY: help install demo test test-slow test-oldest tutorials docs check format clean

help:
	@sed -n '1,5p' Makefile

install: $(VENV)/.installed

# what the package itself needs
$(VENV)/.installed-package: pyproject.toml
	@echo "Installing ortho-lightning and its requirements into $(VENV)."
	@echo "This takes 6.2 GB with the CUDA build of PyTorch, which pip chooses on Linux; less with a CPU build."
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" . $(PACKAGE_MB)
	@touch $@

# ... and what the tests and checks need; after the other, so that both may be asked for at once
$(VENV)/.installed: pyproject.toml $(VENV)/.installed-package
	@echo "Installing the requirements of the tests and checks into $(VENV): 7.5 GB in total."
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" ".[test,dev]" $(ALL_MB)
	@touch $@

demo: $(VENV)/.installed-package
	@echo "Training PointNet on procedural point clouds without a penalty, with gram and with lsh. This takes a few minutes."
	@$(BIN)/python scripts/compare.py experiment=shapes 'seeds=$(SEEDS)'

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
  $(filter-out tests/test_docs%.py tests/test_layer_docs.py tests/test_reference.py,$(wildcard tests/test_*.py))

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

docs: $(VENV)/.installed-docs
	@echo "Building the documentation into build/docs ..."
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --write-all -b html docs build/docs
	@echo "Open build/docs/index.html"

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed-package
	@echo "Installing Sphinx into $(VENV)."
	@PYTHON="$(PYTHON)" sh scripts/install.sh "$(VENV)" ".[docs]" $(PACKAGE_MB)
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
