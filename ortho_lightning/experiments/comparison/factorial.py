"""The gain of an arm in place of other regularizers, from runs with and without each of them.

A factor is a setting of two values, of which one switches something off, such as a weight decay of 0.0 and 0.005. A
full factorial has runs of every arm for each combination of values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison.differences import corrected_differences
from ortho_lightning.experiments.comparison.gathered_run import OF_ARM, GatheredRun, check_equal, distinct
from ortho_lightning.experiments.comparison.inference import Estimate, describe
from ortho_lightning.experiments.comparison.measures import accuracy_of
from ortho_lightning.experiments.comparison.summary import Difference

Cell = tuple[bool, ...]
"""For each factor, true if it is on."""
Accuracies = Mapping[str, Mapping[Cell, Mapping[int, float]]]
"""Test accuracies in percent by arm, cell and seed."""


@dataclass(frozen=True)
class Factor:
    """A setting that is on or off.

    Args:
        key: its name in the configuration.
        on: the value that is not ``off``.
        off: None, 0, false or something empty.
    """

    key: str
    on: Any
    off: Any

    @classmethod
    def of(cls, key: str, values: Iterable[Any]) -> Factor:
        """Return the factor of a key with these values.

        Raises:
            ConfigurationError: unless there are two values, of which one is off.
        """
        found = distinct(values)
        if len(found) != 2 or sum(not value for value in found) != 1:
            raise ConfigurationError(
                f"factors={key!r}: has the values {found}; a factor has two, one of which is off (null, 0 or false)"
            )
        return cls(key, *sorted(found, key=lambda value: not value))


@dataclass(frozen=True)
class Replacement:
    """An arm in place of a factor, as paired differences of the test accuracy in points.

    Each is the mean over the combinations of the other factors. All are of the seeds that the arm and the baseline have
    in every cell.

    Args:
        factor: its name.
        arm: the arm.
        brings: the baseline with the factor minus without it; corrected for the number of factors.
        gains: without the factor, the arm minus the baseline; corrected for all factors and arms.
        instead: the arm without the factor minus the baseline with it; corrected in the same way.
        beside: with the factor, the arm minus the baseline; corrected in the same way.
    """

    factor: str
    arm: str
    brings: Difference
    gains: Difference
    instead: Difference
    beside: Difference

    @property
    def share(self) -> float | None:
        """The gain as a share of what the factor brings; None unless that was shown to be positive."""
        shown = self.brings.low_holm is not None and self.brings.low_holm > 0
        return self.gains.mean / self.brings.mean if shown else None

    def to_json(self) -> dict[str, Any]:
        """Return the entry in ``results.json``."""
        return {**asdict(self), "share": self.share}


@dataclass(frozen=True)
class Factorial:
    """Runs of every arm with and without each factor.

    Args:
        factors: in the order of the cells.
        accuracies: of the finished runs, the baseline's first.
        baseline: the arm that the others are compared with.
    """

    factors: Sequence[Factor]
    accuracies: Accuracies
    baseline: str

    @classmethod
    def of(cls, runs: Sequence[GatheredRun], keys: Sequence[str], by: Sequence[str], baseline: str) -> Factorial:
        """Return the factorial of runs, one for each arm, cell and seed.

        Args:
            runs: gathered by ``by`` and ``keys``.
            keys: of the factors, in the configuration.
            by: further keys. Those of the penalty are part of the arm. Others go with the factors, as a learning rate
                does that is smaller without norms: they have one value in each cell.
            baseline: the arm that the others are compared with.

        Raises:
            ConfigurationError: for a key that is no factor, runs of an arm that differ in more than factors and ``by``,
                two values of one of ``by`` in a cell, or a baseline without runs in every cell.
        """
        if len(set(keys)) < len(keys):
            raise ConfigurationError(f"factors={list(keys)}: name each once")
        known = [(run, run.configuration) for run in runs if run.configuration is not None]
        for key, (run, own) in itertools.product(keys, known):
            if key not in own:
                raise ConfigurationError(f"factors={key!r}: {run.folder} has no value of it; every run must have one")
        factors = [Factor.of(key, [own[key] for _, own in known]) for key in keys]
        going_with = [key for key in by if not key.startswith(OF_ARM)]
        found: dict[str, dict[Cell, dict[int, float]]] = {baseline: {}}
        of_arm: dict[str, GatheredRun] = {}
        of_cell: dict[Cell, tuple[GatheredRun, list[Any]]] = {}
        for run, own in known:
            cell = tuple(bool(own[key] == factor.on) for key, factor in zip(keys, factors, strict=True))
            check_equal(of_arm.setdefault(run.arm, run), run, besides=[*keys, *by])
            values = [own.get(key) for key in going_with]
            first, others = of_cell.setdefault(cell, (run, values))
            if values != others:
                raise ConfigurationError(
                    f"by={going_with}: {first.folder} and {run.folder} have {others} and {values} with the same factors"
                )
            seeds = found.setdefault(run.arm, {}).setdefault(cell, {})
            accuracy = accuracy_of(run.record)
            if accuracy is not None:
                seeds[run.record.seed] = accuracy
        factorial = cls(factors, found, baseline)
        if not factorial.seeds(baseline):
            raise ConfigurationError(
                f"factors={list(keys)}: no seed has finished runs of {baseline} with and without each of them in every "
                "combination"
            )
        return factorial

    @property
    def cells(self) -> list[Cell]:
        """The combinations of the factors, all of them off first."""
        return list(itertools.product((False, True), repeat=len(self.factors)))

    @property
    def names(self) -> list[str]:
        """The names of the factors: the last part of the key, or the key where two would have the same name."""
        last = [factor.key.rpartition(".")[2] for factor in self.factors]
        return [name if last.count(name) == 1 else factor.key for name, factor in zip(last, self.factors, strict=True)]

    @property
    def incomplete(self) -> list[str]:
        """Arms without a seed that they and the baseline finished in every cell; nothing is said of them."""
        return [arm for arm in self.accuracies if not self.seeds(arm)]

    def seeds(self, arm: str) -> list[int]:
        """Return the seeds that an arm and the baseline finished in every cell."""
        wanted = [self.accuracies[one].get(cell, {}) for one in (arm, self.baseline) for cell in self.cells]
        return sorted(set(wanted[0]).intersection(*wanted[1:]))

    def text(self, cell: Cell) -> str:
        """Return the values of the factors in a cell."""
        values = (factor.on if on else factor.off for factor, on in zip(self.factors, cell, strict=True))
        return " ".join(f"{name}={value}" for name, value in zip(self.names, values, strict=True))

    def accuracy(self, arm: str, cell: Cell, confidence: float) -> Estimate:
        """Return the test accuracy of an arm in a cell, over all of its seeds there."""
        return describe(list(self.accuracies[arm].get(cell, {}).values()), confidence)

    def with_all(self, arm: str, runs: Iterable[GatheredRun]) -> str:
        """Return the full name of an arm with every factor, or the arm if it has no such run."""
        for run in runs:
            own = run.configuration
            if run.arm == arm and own is not None and all(own[one.key] == one.on for one in self.factors):
                return run.record.regularizer
        return arm

    def replacements(self, confidence: float) -> list[Replacement]:
        """Return what each arm other than the baseline brings in place of each factor, without incomplete arms."""
        none, places = self.baseline, range(len(self.factors))
        seeds = {arm: found for arm in self.accuracies if arm != none and (found := self.seeds(arm))}
        tests = list(itertools.product(places, seeds))
        largest = max(
            max(of_cell.values(), default=0.0) for of_arm in self.accuracies.values() for of_cell in of_arm.values()
        )

        def paired(place: int, arm: str, first: tuple[str, bool], second: tuple[str, bool]) -> list[float]:
            return [self._mean(*first, place, seed) - self._mean(*second, place, seed) for seed in seeds[arm]]

        def of_arms(with_factor: bool, baseline_with_factor: bool) -> dict[tuple[int, str], Difference]:
            differences = {
                (place, arm): paired(place, arm, (arm, with_factor), (none, baseline_with_factor))
                for place, arm in tests
            }
            return corrected_differences(differences, confidence, largest)

        def of_factors(arm: str) -> dict[int, Difference]:
            effects = {place: paired(place, arm, (none, True), (none, False)) for place in places}
            return corrected_differences(effects, confidence, largest)

        brings = {arm: of_factors(arm) for arm in seeds}
        gains, instead, beside = of_arms(False, False), of_arms(False, True), of_arms(True, True)
        return [
            Replacement(self.names[at], arm, brings[arm][at], gains[at, arm], instead[at, arm], beside[at, arm])
            for at, arm in tests
        ]

    def _mean(self, arm: str, on: bool, place: int, seed: int) -> float:
        """The accuracy of an arm with a factor on or off: the mean over the combinations of the others."""
        return fmean(self.accuracies[arm][cell][seed] for cell in self.cells if cell[place] == on)
