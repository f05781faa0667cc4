"""Examples in docstrings run, and module docstrings begin as they should."""

import doctest
import importlib
import pkgutil

import pytest

import ortho_lightning

MODULES = [module.name for module in pkgutil.walk_packages(ortho_lightning.__path__, "ortho_lightning.")]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_no_module_docstring_opens_with_a_question_word():
    words = ("What", "How", "Which", "Where", "Whether")
    first = {name: (importlib.import_module(name).__doc__ or "").partition(" ")[0] for name in MODULES}
    assert [name for name in MODULES if first[name].rstrip(":,") in words] == []


def test_there_are_examples():
    found = [doctest.DocTestFinder().find(importlib.import_module(name)) for name in MODULES if "functional" in name]
    assert sum(bool(test.examples) for tests in found for test in tests) >= 5
