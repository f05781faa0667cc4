"""What a penalty brings in place of other regularizers, from runs with and without each of them.

A factor is a setting of two values, of which one switches something off, as a weight decay of 0.0 and 0.005. A full
factorial has runs of every arm for each combination of values.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.differences import corrected_differences
from ortho_lightning.experiments.comparison.inference import Estimate, describe
from ortho_lightning.experiments.comparison.measures import METRIC, failure_of, run_measures
from ortho_lightning.experiments.comparison.run_folder import configuration_of, record_of
from ortho_lightning.experiments.comparison.summary import Difference

Cell = tuple[bool, ...]
"""Whether each factor is on."""
Accuracies = Mapping[str, Mapping[Cell, Mapping[int, float]]]
"""Test accuracies in percent by arm, cell and seed."""


@dataclass(frozen=True)
class Factor:
    """A setting that is on or off.

    Args:
        key: its name in the configuration.
        on: the value that is not ``off``.
        off: None, 0, false or an empty text.
    """

    key: str
    on: Any
    off: Any

    @classmethod
    def of(cls, key: str, values: Sequence[Any]) -> Factor:
        """Return the factor of a key with these values.

        Raises:
            ConfigurationError: unless there are two values, of which one is off.
        """
        found = list(dict.fromkeys(values))
        if len(found) != 2 or sum(not value for value in found) != 1:
            raise ConfigurationError(
                f"factors={key!r}: has the values {found}; a factor has two, one of which is off (null, 0 or false)"
            )
        return cls(key, *sorted(found, key=lambda value: not value))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Replacement:
    """An arm in place of a factor, as paired differences of the test accuracy in points.

    Each is the mean over the combinations of the other factors, so a factor's effect is its main effect among the runs
    without the arm.

    Args:
        factor: the name of the factor.
        arm: the arm.
        brings: runs with the factor minus runs without it, neither with the arm; corrected for the number of factors.
        gains: runs with the arm minus runs without it, neither with the factor; corrected for all factors and arms.
        instead: runs with the arm alone minus runs with the factor alone; corrected in the same way.
        beside: runs with both minus runs with the factor alone; corrected in the same way.
    """

    factor: str
    arm: str
    brings: Difference
    gains: Difference
    instead: Difference
    beside: Difference

    @property
    def share(self) -> float | None:
        """What the arm brings without the factor, as a share of what the factor brings; None if it brings nothing."""
        return self.gains.mean / self.brings.mean if self.brings.mean > 0 else None


@dataclass(frozen=True)
class Factorial:
    """Runs of every arm with and without each factor.

    Args:
        factors: in the order of the cells.
        accuracies: of the finished runs.
        baseline: the arm without a penalty.
        confidence: of every interval.
    """

    factors: Sequence[Factor]
    accuracies: Accuracies
    baseline: str
    confidence: float

    @classmethod
    def of(cls, folders: Sequence[Path], keys: Sequence[str], baseline: str, confidence: float) -> Factorial:
        """Return the factorial of runs, from their folders; failed ones are left out.

        Args:
            folders: of the runs.
            keys: of the factors, in the configuration.
            baseline: the arm without a penalty.
            confidence: of every interval.

        Raises:
            ConfigurationError: for a key that is no factor, or two runs of the same arm, cell and seed.
        """
        runs = {folder: own for folder in folders if (own := configuration_of(folder)) is not None}
        factors = [Factor.of(key, [own[key] for own in runs.values() if key in own]) for key in keys]
        found: dict[str, dict[Cell, dict[int, float]]] = {}
        for folder, own in runs.items():
            record = record_of(folder)
            accuracy = run_measures(record, None)[METRIC] if failure_of(record) is None else None
            if accuracy is None:
                continue
            cell = tuple(own.get(factor.key) == factor.on for factor in factors)
            seeds = found.setdefault(record.regularizer, {}).setdefault(cell, {})
            if seeds.setdefault(record.seed, accuracy) != accuracy:
                raise ConfigurationError(
                    f"{folder} and another run of {record.regularizer} with seed {record.seed} differ in more than the "
                    f"factors {list(keys)}: remove one"
                )
        arms = sorted(found, key=lambda arm: (arm != baseline, arm))
        return cls(factors, {arm: found[arm] for arm in arms}, baseline, confidence)

    @property
    def cells(self) -> list[Cell]:
        """The combinations of the factors, all of them off first."""
        return list(itertools.product((False, True), repeat=len(self.factors)))

    def name(self, cell: Cell) -> str:
        """Return the values of the factors in a cell."""
        values = ((factor.name, factor.on if on else factor.off) for factor, on in zip(self.factors, cell, strict=True))
        return " ".join(f"{name}={value}" for name, value in values)

    def accuracy(self, arm: str, cell: Cell) -> Estimate:
        """Return the test accuracy of an arm in a cell, over its seeds."""
        return describe(list(self.accuracies[arm].get(cell, {}).values()), self.confidence)

    def replacements(self) -> list[Replacement]:
        """Return what each arm other than the baseline brings in place of each factor.

        Only seeds with runs of both arms in all cells count.

        Raises:
            ConfigurationError: if no seed has runs of the baseline, or of an arm, in every cell.
        """
        places = range(len(self.factors))
        arms = [arm for arm in self.accuracies if arm != self.baseline]
        whole = {arm: self._whole_seeds(arm) for arm in [self.baseline, *arms]}
        none = self.baseline

        def paired(place: int, arm: str, first: tuple[str, bool], second: tuple[str, bool]) -> list[float]:
            return [self._mean(*first, place, seed) - self._mean(*second, place, seed) for seed in whole[arm]]

        tests = list(itertools.product(places, arms))
        families: list[Mapping[tuple[int, str], list[float]]] = [
            {(place, none): paired(place, none, (none, True), (none, False)) for place in places},
            {(place, arm): paired(place, arm, (arm, False), (none, False)) for place, arm in tests},
            {(place, arm): paired(place, arm, (arm, False), (none, True)) for place, arm in tests},
            {(place, arm): paired(place, arm, (arm, True), (none, True)) for place, arm in tests},
        ]
        every = [one for of_arm in self.accuracies.values() for seeds in of_arm.values() for one in seeds.values()]
        brings, *of_arms = (corrected_differences(one, self.confidence, max(every)) for one in families)
        return [
            Replacement(self.factors[place].name, arm, brings[place, none], *(one[place, arm] for one in of_arms))
            for place, arm in tests
        ]

    def _mean(self, arm: str, on: bool, place: int, seed: int) -> float:
        """The accuracy of an arm with a factor on or off: the mean over the combinations of the others."""
        return fmean(self.accuracies[arm][cell][seed] for cell in self.cells if cell[place] == on)

    def _whole_seeds(self, arm: str) -> list[int]:
        """The seeds with a run of an arm and of the baseline in every cell."""
        arms = list(dict.fromkeys([arm, self.baseline]))
        wanted = [self.accuracies.get(one, {}).get(cell, {}) for one in arms for cell in self.cells]
        seeds = sorted(set(wanted[0]).intersection(*wanted[1:]))
        if not seeds:
            names = ", ".join(factor.key for factor in self.factors)
            raise ConfigurationError(
                f"factors=[{names}]: no seed has finished runs of {' and '.join(arms)} with and without each of them "
                "in every combination"
            )
        return seeds
