"""The measures of one run, and whether a run counts as finished.

A new kind of angle is one line of :data:`LAYER_MEASURES`: from there it reaches the runs, the layers and the summary.
Accuracies of records are fractions; those of measures are in percent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ortho_lightning.experiments.common.records import LayerRecord, RunRecord

METRIC = "test_accuracy"
"""The measure that decides, fixed before any run: the test accuracy after the last epoch."""

Measures = Mapping[str, float | None]
"""Measures by name; None for those that a run or a layer does not have."""
Seeds = Mapping[int, Measures]


@dataclass(frozen=True)
class LayerMeasure:
    """A measure of a layer.

    Args:
        name: in the record of a layer.
        of_run: the name of the measure that it makes over the layers of a run; None: it makes none.
        over_layers: makes one number of those of the layers.
    """

    name: str
    of_run: str | None = None
    over_layers: Callable[[Iterable[float]], float] = statistics.fmean

    def of(self, layers: Iterable[LayerRecord]) -> float | None:
        """Return the measure over layers; None if no layer has it."""
        found = numbers(layer.values.get(self.name) for layer in layers)
        return self.over_layers(found) if found else None


LAYER_MEASURES = (
    LayerMeasure("mean", "angle_mean"),
    LayerMeasure("std", "angle_std"),
    LayerMeasure("spread_ratio", "spread_ratio"),
    LayerMeasure("max_abs_cos", "max_abs_cos", max),
    LayerMeasure("rms_cos"),
    LayerMeasure("response_mean", "response_angle_mean"),
    LayerMeasure("response_std", "response_angle_std"),
    LayerMeasure("response_samples"),
)
OF_LAYERS = {measure.of_run: measure for measure in LAYER_MEASURES if measure.of_run is not None}
MEASURES = (
    METRIC,
    "best_test_accuracy",
    "best_epoch",
    "val_accuracy",
    "mean_val_accuracy",
    "epochs_to_target",
    *OF_LAYERS,
    "penalty",
)
ROBUSTNESS_PREFIX = "robustness/"
"""Before the names of the accuracies on perturbed test data, each of which is compared with the baseline."""
COMPARED = ("mean_val_accuracy", "epochs_to_target", "angle_std", "response_angle_std")
"""Further measures that are compared with the baseline: speed of convergence, and angles."""


def failure_of(run: RunRecord) -> str | None:
    """Return why a run counts as failed; None for a finished one, even if nothing was tested."""
    if run.failure is not None:
        return run.failure or "no reason was recorded"
    if run.test_accuracy is not None and finite(run.test_accuracy) is None:
        return f"the run diverged: its test accuracy is {run.test_accuracy}"
    return None


def by_arm(runs: Iterable[RunRecord]) -> dict[str, dict[int, RunRecord]]:
    """Return the runs by arm and seed; of several with the same arm and seed the last counts."""
    found: dict[str, dict[int, RunRecord]] = {}
    for run in runs:
        found.setdefault(run.regularizer, {})[run.seed] = run
    return found


def finished_by_arm(runs: Iterable[RunRecord]) -> dict[str, dict[int, RunRecord]]:
    """Return the finished runs by arm and seed; an arm of failures is there without runs."""
    return {
        arm: {seed: run for seed, run in seeds.items() if failure_of(run) is None}
        for arm, seeds in by_arm(runs).items()
    }


def run_measures(run: RunRecord, target: float | None) -> dict[str, float | None]:
    """Return the measures of one run, those of its robustness tests included.

    Args:
        run: a finished run.
        target: validation accuracy, a fraction, to which the epochs are counted, from 1.
    """
    best = None if run.best is None else finite(run.best.epoch)
    found: dict[str, float | None] = {
        METRIC: _percent(run.test_accuracy),
        "best_test_accuracy": None if run.best is None else _percent(run.best.test_accuracy),
        "best_epoch": None if best is None else best + 1,
        "val_accuracy": _percent(run.val_accuracy),
        "mean_val_accuracy": _percent(mean(epoch.values.get("val_accuracy") for epoch in run.history)),
        "epochs_to_target": _epochs_to(run, target),
    }
    for name, measure in OF_LAYERS.items():
        found[name] = measure.of(run.layers)
    found["penalty"] = finite(run.penalty)
    for name, accuracy in run.robustness.items():
        found[ROBUSTNESS_PREFIX + name] = _percent(accuracy)
    return found


def accuracy_of(run: RunRecord) -> float | None:
    """Return the measure that decides, in percent; None for a failed run and where nothing was tested."""
    return _percent(run.test_accuracy) if failure_of(run) is None else None


def common_target(finished: Iterable[RunRecord]) -> float | None:
    """Return the lowest of the runs' best validation accuracies; None where nothing was validated."""
    best = [max(numbers(epoch.values.get("val_accuracy") for epoch in run.history), default=None) for run in finished]
    return min(numbers(best), default=None)


def finite(value: Any) -> float | None:
    """Return a number; None for what is missing or not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def numbers(values: Iterable[Any]) -> list[float]:
    """Return the finite ones of the values."""
    return [number for number in map(finite, values) if number is not None]


def mean(values: Iterable[Any]) -> float | None:
    """Return the mean of the finite ones of the values; None if there are none."""
    found = numbers(values)
    return statistics.fmean(found) if found else None


def _epochs_to(run: RunRecord, target: float | None) -> float | None:
    for epoch in run.history:
        accuracy = finite(epoch.values.get("val_accuracy"))
        if target is not None and accuracy is not None and accuracy >= target:
            return float(epoch.epoch + 1)
    return None


def _percent(value: float | None) -> float | None:
    number = finite(value)
    return None if number is None else 100 * number
