"""The environment of `make test-oldest` has the lower bounds of pyproject.toml, and every dependency has one."""

from pathlib import Path

import pytest
from packaging.requirements import Requirement

tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")

ROOT = Path(__file__).resolve().parents[1]
FOR_DEVELOPMENT = {"test", "dev", "docs"}


def declared():
    """Return the requirements of the package and of its optional features."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    features = project["optional-dependencies"].items()
    optional = [one for feature, needed in features if feature not in FOR_DEVELOPMENT for one in needed]
    found = {Requirement(one).name: Requirement(one).specifier for one in project["dependencies"] + optional}
    return sorted(found.items())


def pinned():
    lines = (ROOT / "tests" / "oldest.txt").read_text().splitlines()
    return {Requirement(line).name: Requirement(line).specifier for line in lines if line and line[0] != "#"}


def only(specifier):
    """Return operator and numbers of a specifier that has one clause."""
    (one,) = specifier
    return one.operator, [int(number) for number in one.version.split(".")]


@pytest.mark.parametrize(("name", "specifier"), declared())
def test_every_dependency_has_a_lower_bound_and_the_oldest_environment_pins_it(name, specifier):
    operator, bound = only(specifier)
    assert operator == ">="
    operator, pin = only(pinned()[name])
    assert operator == "=="
    # `>=1.0` may be pinned as 1.0.3 if that is the first release of the series
    assert pin[: len(bound)] == bound


def test_both_packages_of_lightning_are_the_same_release():
    assert only(pinned()["pytorch-lightning"]) == only(pinned()["lightning"])
