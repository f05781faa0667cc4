"""What the runs of a comparison say together: means and intervals over seeds, and paired differences to a baseline.

The figure that decides, fixed before any run, is the test accuracy after the last epoch. The runs' and the summary's
schemas: accuracies of runs are fractions; those of the summary are in percent and their differences in points.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.comparison import findings, inference

METRIC = "test_accuracy"
FIGURES = (
    METRIC,
    "best_test_accuracy",
    "best_epoch",
    "val_accuracy",
    "epochs_to_target",
    "angle_mean",
    "angle_std",
    "spread_ratio",
    "max_abs_cos",
    "penalty",
)
_OF_LAYERS = {"angle_mean": "mean", "angle_std": "std", "spread_ratio": "spread_ratio"}
_LAYER_FIGURES = ("mean", "std", "spread_ratio", "max_abs_cos", "rms_cos")

Run = Mapping[str, Any]


def check_settings(confidence: float, target: float | None) -> None:
    """Refuse what :func:`summarize` cannot use, before anything is trained.

    Raises:
        ConfigurationError: for a confidence or a target outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence={confidence}: must lie between 0 and 1, as 0.95 does")
    if target is not None and not 0 < target <= 1:
        raise ConfigurationError(f"target={target}: a validation accuracy as a fraction, 0.75 for 75%")


def summarize(
    runs: Sequence[Run], baseline: str = "none", confidence: float = 0.95, target: float | None = None
) -> dict[str, Any]:
    """The ``summary`` of a comparison's runs.

    An interval needs three seeds and some spread between them; where it has neither, it is None and a note says why.
    ``runs`` of an arm counts all of its runs, ``failed`` those that left no accuracy, diverged ones among them.
    ``difference`` is paired over the seeds that both arms finished: ``low``, ``high`` at ``confidence``, ``low_holm``,
    ``high_holm`` at the level at which Holm's procedure judges the arm, and ``detectable``, the true difference that
    so many pairs show with probability 0.8 at level ``(1 - confidence) / m``, the first step of the procedure over m
    arms. ``ratio`` of ``spread`` is the standard deviation over the baseline's. Epochs are counted from 1.

    Args:
        runs: as ``results.json`` holds them, failed ones too. Of several with the same arm and seed the last counts.
        baseline: the arm that the others are compared with; if it is not there, nothing is compared.
        confidence: of every interval.
        target: validation accuracy, a fraction, to which the epochs are counted. None: the highest that every finished
            run reaches, that is, the lowest of their best.

    Raises:
        ConfigurationError: see :func:`check_settings`.
    """
    check_settings(confidence, target)
    by_arm: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_arm.setdefault(run["regularizer"], {})[run["seed"]] = run
    finished = {
        arm: {seed: run for seed, run in of_arm.items() if failure_of(run) is None} for arm, of_arm in by_arm.items()
    }
    if target is None:
        target = _common_target(run for of_arm in finished.values() for run in of_arm.values())
    figures = {
        arm: {seed: run_figures(run, target) for seed, run in of_arm.items()} for arm, of_arm in finished.items()
    }
    compared = baseline if baseline in by_arm else None
    differences = _differences(figures, compared, confidence)
    spreads = _spreads(figures, compared, confidence)
    summary: dict[str, Any] = {
        "metric": METRIC,
        "baseline": compared,
        "confidence": confidence,
        "seeds": list(dict.fromkeys(run["seed"] for run in runs)),
        "target": target,
        "arms": [
            {
                "arm": arm,
                "runs": len(of_arm),
                "failed": [
                    {"seed": seed, "reason": failure_of(run)} for seed, run in of_arm.items() if failure_of(run)
                ],
                "figures": _described(figures, arm, confidence),
                "difference": differences.get(arm),
                "spread": spreads.get(arm),
            }
            for arm, of_arm in by_arm.items()
        ],
        "layers": layer_table(finished),
    }
    summary["sentence"] = findings.sentence(summary)
    summary["notes"] = findings.notes(summary, finished, figures, baseline)
    return summary


def failure_of(run: Run) -> str | None:
    """Why a run counts as failed; None for a finished one, even if nothing was tested."""
    if run.get("failure") is not None:
        return str(run["failure"]) or "no reason was recorded"
    accuracy = run.get(METRIC)
    if accuracy is not None and finite(accuracy) is None:
        return f"the run diverged: its test accuracy is {accuracy}"
    return None


def finite(value: Any) -> float | None:
    """A number; None for what is missing or not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def run_figures(run: Run, target: float | None) -> dict[str, float | None]:
    """The figures of one run by the summary's names; None for those that it does not have."""
    best = run.get("best") or {}
    layers = run.get("layers") or []
    epoch = finite(best.get("epoch"))
    found: dict[str, float | None] = {
        METRIC: _percent(run.get(METRIC)),
        "best_test_accuracy": _percent(best.get("test_accuracy")),
        "best_epoch": None if epoch is None else epoch + 1,
        "val_accuracy": _percent(run.get("val_accuracy")),
        "epochs_to_target": _epochs_to(run, target),
    }
    for key, of_layer in _OF_LAYERS.items():
        found[key] = _mean(layer.get(of_layer) for layer in layers)
    found["max_abs_cos"] = max(_numbers(layer.get("max_abs_cos") for layer in layers), default=None)
    found["penalty"] = finite(run.get("penalty"))
    for name, value in (run.get("robustness") or {}).items():
        found[f"robustness/{name}"] = _percent(value)
    return found


def layer_table(finished: Mapping[str, Mapping[int, Run]]) -> list[dict[str, Any]]:
    """A row a layer: its figures as means over the seeds of each arm, and the pairs in each bin added up."""
    collected: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for arm, of_arm in finished.items():
        for run in of_arm.values():
            for layer in run.get("layers") or []:
                collected.setdefault(layer["name"], {}).setdefault(arm, []).append(layer)
    rows = []
    for name, arms in collected.items():
        first = next(iter(arms.values()))[0]
        row = {"name": name, **{key: first.get(key) for key in ("groups", "k", "d", "welch_floor", "null_std")}}
        row["arms"] = {
            arm: {
                **{key: _mean(layer.get(key) for layer in layers) for key in _LAYER_FIGURES},
                "counts": [
                    sum(bins) for bins in zip(*(one["counts"] for one in layers if one.get("counts")), strict=True)
                ],
            }
            for arm, layers in arms.items()
        }
        rows.append(row)
    return rows


def _described(
    figures: Mapping[str, Mapping[int, Mapping[str, float | None]]], arm: str, confidence: float
) -> dict[str, Any]:
    """Each figure of an arm over its seeds; that of every robustness test that any arm has."""
    names = [*FIGURES, *(key for of_arm in figures.values() for run in of_arm.values() for key in run)]
    return {
        key: inference.describe(_numbers(run.get(key) for run in figures[arm].values()), confidence)
        for key in dict.fromkeys(names)
    }


def _differences(
    figures: Mapping[str, Mapping[int, Mapping[str, float | None]]], baseline: str | None, confidence: float
) -> dict[str, dict[str, Any]]:
    """The paired difference of the metric to the baseline, by arm; none without a common seed."""
    found: dict[str, dict[str, Any]] = {}
    tested: dict[str, float] = {}
    for arm in figures if baseline is not None else ():
        if arm == baseline:
            continue
        pairs = [(figures[arm][seed][METRIC], of_seed[METRIC]) for seed, of_seed in figures[baseline or ""].items()
                 if seed in figures[arm]]  # fmt: skip
        differences = [own - other for own, other in pairs if own is not None and other is not None]
        if not differences:
            continue
        found[arm] = {**inference.describe(differences, confidence, scale=100.0), "p": None, "p_holm": None,
                      "low_holm": None, "high_holm": None, "detectable": None}  # fmt: skip
        if found[arm]["low"] is not None:
            tested[arm] = found[arm]["p"] = inference.paired_p(differences)
    alpha = 1 - confidence
    corrected, levels = inference.holm(list(tested.values()), alpha)
    for arm, p, level in zip(tested, corrected, levels, strict=True):
        one = found[arm]
        one["p_holm"] = p
        one["low_holm"], one["high_holm"] = inference.mean_interval(one["mean"], one["std"], one["n"], 1 - level)
        one["detectable"] = inference.detectable_difference(one["std"], one["n"], alpha / len(tested))
    return found


def _spreads(
    figures: Mapping[str, Mapping[int, Mapping[str, float | None]]], baseline: str | None, confidence: float
) -> dict[str, dict[str, Any]]:
    """The standard deviation of the metric between seeds, by arm, and its ratio to the baseline's."""
    found: dict[str, dict[str, Any]] = {}
    described = {
        arm: inference.describe(_numbers(run[METRIC] for run in of_arm.values()), confidence)
        for arm, of_arm in figures.items()
    }
    for arm, one in described.items():
        if one["std"] is None:
            continue
        found[arm] = dict.fromkeys(("std", "low", "high", "ratio", "ratio_low", "ratio_high"))
        found[arm]["std"] = one["std"]
        if one["low"] is None:
            continue
        found[arm]["low"], found[arm]["high"] = inference.spread_interval(one["std"], one["n"], confidence)
        other = described.get(baseline) if baseline is not None and arm != baseline else None
        if other is not None and other["low"] is not None:
            found[arm]["ratio"] = one["std"] / other["std"]
            found[arm]["ratio_low"], found[arm]["ratio_high"] = inference.spread_ratio_interval(
                one["std"], one["n"], other["std"], other["n"], confidence
            )
    return found


def _common_target(finished: Iterable[Run]) -> float | None:
    """The lowest of the runs' best validation accuracies; None where nothing was validated."""
    best = [max(_numbers(epoch.get("val_accuracy") for epoch in run.get("history") or []), default=None)
            for run in finished]  # fmt: skip
    return min((value for value in best if value is not None), default=None)


def _epochs_to(run: Run, target: float | None) -> float | None:
    """The first epoch, counted from 1, whose validation accuracy is at least the target."""
    for epoch in run.get("history") or []:
        accuracy = finite(epoch.get("val_accuracy"))
        if target is not None and accuracy is not None and accuracy >= target:
            return float(epoch["epoch"] + 1)
    return None


def _percent(value: Any) -> float | None:
    number = finite(value)
    return None if number is None else 100 * number


def _numbers(values: Iterable[Any]) -> list[float]:
    return [number for number in map(finite, values) if number is not None]


def _mean(values: Iterable[Any]) -> float | None:
    numbers = _numbers(values)
    return statistics.fmean(numbers) if numbers else None
