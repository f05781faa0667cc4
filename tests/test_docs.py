"""Examples in docstrings run, and each room imports only what lies below it."""

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import ortho_lightning

MODULES = [module.name for module in pkgutil.walk_packages(ortho_lightning.__path__, "ortho_lightning.")]
ROOMS = [
    "errors",
    "functional",
    "kernels",
    "regularizers",
    "schedules",
    "nn",
    "callbacks",
    "data",
    "models",
    "experiments",
]
PACKAGE = Path(ortho_lightning.__file__).parent


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    found = [doctest.DocTestFinder().find(importlib.import_module(name)) for name in MODULES if "functional" in name]
    assert sum(bool(test.examples) for tests in found for test in tests) >= 5


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ortho_lightning"):
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names if alias.name in ROOMS]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_only_what_lies_below(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in imported_rooms(path):
        assert ROOMS.index(other) <= ROOMS.index(room), f"{path} imports {other}"
    if room == "functional":
        assert set(imported_rooms(path)) <= {"functional"}
