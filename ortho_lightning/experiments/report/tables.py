"""The tables of a comparison's report as text, for the page and for Markdown alike. Rounding happens here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ortho_lightning.experiments.comparison.findings import FEW
from ortho_lightning.experiments.comparison.inference import FEWEST

MISSING = "-"

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of each row names it."""

    name: str
    title: str
    headings: list[str]
    rows: list[list[str]]
    legend: list[str] = field(default_factory=list)


def all_tables(content: Content) -> Iterator[Table]:
    """Every table of the report that has rows, in the order in which they stand."""
    for make in (main, differences, costs, robustness, more, layers, failures):
        table = make(content)
        if table.rows:
            yield table


def number(value: float | None, digits: int = 2, sign: str = "") -> str:
    return MISSING if value is None else f"{value:{sign}.{digits}f}"


def between(figure: Mapping[str, Any], digits: int = 2, sign: str = "", value: str = "mean", ends: str = "") -> str:
    """A figure and its interval: ``"75.20 [74.90, 75.50]"``; without brackets where there is no interval."""
    text = number(figure[value], digits, sign)
    low, high = figure["low" + ends], figure["high" + ends]
    return text if low is None else f"{text} [{number(low, digits, sign)}, {number(high, digits, sign)}]"


def main(content: Content) -> Table:
    """What the arms are judged by, a row an arm."""
    summary = content["summary"]
    baseline, target = summary["baseline"], summary["target"]
    headings = [
        "arm",
        "seeds",
        "test accuracy (%)",
        f"difference to {baseline} (points)" if baseline is not None else "difference (points)",
        "p (Holm)",
        "at the best epoch (%)",
        "epochs to target" if target is None else f"epochs to {100 * target:.2f}%",
        "spread of seeds (points)",
        "angle mean (deg)",
        "angle spread (deg)",
        "spread / random",
        "largest abs cos",
    ]
    rows = []
    for arm in summary["arms"]:
        figures, difference, spread = arm["figures"], arm["difference"], arm["spread"]
        rows.append(
            [
                arm["arm"],
                _seeds(arm),
                between(figures["test_accuracy"]),
                MISSING if difference is None else between(difference, sign="+", ends="_holm"),
                MISSING if difference is None else _p(difference["p_holm"]),
                between(figures["best_test_accuracy"]),
                number(figures["epochs_to_target"]["mean"], 1),
                MISSING if spread is None else between(spread, value="std"),
                number(figures["angle_mean"]["mean"]),
                number(figures["angle_std"]["mean"]),
                number(figures["spread_ratio"]["mean"]),
                number(figures["max_abs_cos"]["mean"], 3),
            ]
        )
    return Table("arms", "The arms", headings, rows, _main_legend(summary))


def _main_legend(summary: Mapping[str, Any]) -> list[str]:
    confidence = f"{100 * summary['confidence']:g}%"
    return [
        "The test accuracy with the weights of the last epoch decides; that was fixed beforehand. Beside it stands "
        "that of the epoch whose validation accuracy was best.",
        f"In brackets: {confidence} intervals over seeds (Student's t; chi-square for the spread), none below "
        f"{FEWEST} seeds. The difference is paired: the same seeds in both arms. Its interval and the p of the "
        "paired t test are corrected by Holm for the number of arms.",
        "The spread of the seeds is their standard deviation. Angles are means over layers after the last epoch, the "
        "cosine is the largest between any two filters of a layer. Spread / random is the spread of the angles over "
        "that of random directions: below 1 the filters are closer to right angles than chance, above 1 training has "
        "drawn some together.",
    ]


def differences(content: Content) -> Table:
    """The paired differences in full."""
    summary = content["summary"]
    confidence = f"{100 * summary['confidence']:g}%"
    headings = ["arm", "pairs", f"difference [{confidence}]", "corrected interval", "p", "p (Holm)", "visible from"]
    rows = []
    for arm in summary["arms"]:
        one = arm["difference"]
        if one is None:
            continue
        corrected = between(one, sign="+", ends="_holm").partition(" ")[2]
        rows.append(
            [
                arm["arm"],
                str(one["n"]),
                between(one, sign="+"),
                corrected or MISSING,
                _p(one["p"]),
                _p(one["p_holm"]),
                number(one["detectable"]),
            ]
        )
    legend = [
        "In points of test accuracy. The corrected interval has the level at which Holm's procedure judges the arm, so "
        "it leaves out 0 exactly where the corrected p decides for a difference.",
        "Visible from: the true difference that so many pairs would show with a probability of 80%, had the "
        f"differences the spread seen here; below {FEW} seeds that spread itself is only roughly known.",
    ]
    return Table("differences", f"Differences to {summary['baseline']}", headings, rows, legend)


def costs(content: Content) -> Table:
    """Time and memory of a step, which no two runs give alike."""
    headings = ["arm", "step (ms)", "times the baseline", "peak memory (MB)", "times the baseline"]
    rows = [
        [
            arm,
            number(one.get("step_ms")),
            number(one.get("ratio")),
            number(one.get("peak_mb"), 0),
            number(one.get("peak_ratio")),
        ]
        for arm, one in (content.get("costs") or {}).items()
    ]
    return Table("costs", "What a step costs", headings, rows, ["Measured on the machine named below."])


def robustness(content: Content) -> Table:
    """Test accuracies on disturbed data."""
    arms = content["summary"]["arms"]
    names = list(dict.fromkeys(key for arm in arms for key in arm["figures"] if key.startswith("robustness/")))
    rows = [[arm["arm"], *(between(arm["figures"][name]) for name in names)] for arm in arms] if names else []
    headings = ["arm", *(name.partition("/")[2] for name in names)]
    legend = ["Test accuracy in percent with its interval over seeds. Nothing here was tested for significance."]
    return Table("robustness", "On disturbed test data", headings, rows, legend)


def more(content: Content) -> Table:
    """Figures that decide nothing but explain."""
    headings = ["arm", "validation accuracy (%)", "best epoch", "penalty", "spread of seeds / baseline's"]
    rows = []
    for arm in content["summary"]["arms"]:
        figures, spread = arm["figures"], arm["spread"]
        ratio = MISSING
        if spread is not None and spread.get("ratio") is not None:
            ratio = f"{spread['ratio']:.2f} [{spread['ratio_low']:.2f}, {spread['ratio_high']:.2f}]"
        penalty = figures["penalty"]["mean"]
        rows.append(
            [
                arm["arm"],
                between(figures["val_accuracy"]),
                between(figures["best_epoch"], 1),
                MISSING if penalty is None else f"{penalty:.4g}",
                ratio,
            ]
        )
    legend = [
        "Epochs count from 1. The penalty is that of the last step, before its weight, in each regularizer's own "
        "units. The interval of the spreads' ratio takes the arms for independent and is not corrected for their "
        "number."
    ]
    return Table("more", "More figures", headings, rows, legend)


def layers(content: Content) -> Table:
    """The angles of each layer after the last epoch, a row a layer and arm."""
    headings = ["layer", "k", "d", "arm", "angle mean (deg)", "angle spread (deg)", "random (deg)", "spread / random",
                "rms cos", "Welch floor", "largest abs cos"]  # fmt: skip
    rows = []
    for layer in content["summary"]["layers"]:
        floor = number(layer["welch_floor"], 3) if layer["k"] > layer["d"] else MISSING
        for arm, one in layer["arms"].items():
            rows.append(
                [
                    layer["name"],
                    str(layer["k"]),
                    str(layer["d"]),
                    arm,
                    number(one["mean"]),
                    number(one["std"]),
                    number(layer["null_std"]),
                    number(one["spread_ratio"]),
                    number(one["rms_cos"], 3),
                    floor,
                    number(one["max_abs_cos"], 3),
                ]
            )
    legend = [
        "k filters (in each group) of d numbers; means over seeds. Where there are more filters than dimensions not "
        "all can be orthogonal: their rms cosine cannot fall below Welch's floor."
    ]
    return Table("layers", "Layers after the last epoch", headings, rows, legend)


def failures(content: Content) -> Table:
    """Runs without an accuracy, and why."""
    rows = [
        [arm["arm"], str(one["seed"]), str(one["reason"])]
        for arm in content["summary"]["arms"]
        for one in arm["failed"]
    ]
    return Table("failures", "Failed runs", ["arm", "seed", "reason"], rows)


def _seeds(arm: Mapping[str, Any]) -> str:
    finished = arm["runs"] - len(arm["failed"])
    return f"{finished} of {arm['runs']}" if arm["failed"] else str(finished)


def _p(p: float | None) -> str:
    if p is None:
        return MISSING
    return "below 0.001" if p < 0.001 else f"{p:.3f}"
