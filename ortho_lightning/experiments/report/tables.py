"""The tables of a comparison's report as text, for the page and for Markdown alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ortho_lightning.experiments.comparison.inference import FEWEST, Estimate
from ortho_lightning.experiments.comparison.measures import ROBUSTNESS_PREFIX
from ortho_lightning.experiments.comparison.summary import (
    ArmSummary,
    Difference,
    LayerOfArm,
    LayerSummary,
    SeedDeviation,
)
from ortho_lightning.experiments.report import factors
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.findings import FEW
from ortho_lightning.experiments.report.table import MISSING, Table, estimate, interval, number, p_value


@dataclass(frozen=True)
class ArmColumn:
    """A column of a table with one row per arm."""

    heading: str
    cell: Callable[[ArmSummary], str]


@dataclass(frozen=True)
class LayerColumn:
    """A column of a table with one row per layer and arm."""

    heading: str
    cell: Callable[[LayerSummary, LayerOfArm], str]


def all_tables(comparison: Comparison) -> Iterator[Table]:
    """Return every table of the report that has rows, in the order of the report."""
    makers = (others, costs, robustness, robustness_differences, more, layers, failures)
    tables = [
        main(comparison),
        differences(comparison),
        *_of_factors(comparison),
        *(make(comparison) for make in makers),
    ]
    yield from (table for table in tables if table.rows)


def main(comparison: Comparison) -> Table:
    """Return the measures that the arms are judged by, one row per arm."""
    summary = comparison.summary
    columns = _main_columns(comparison)
    rows = [[column.cell(arm) for column in columns] for arm in summary.ranked]
    return Table("arms", "The arms", [column.heading for column in columns], rows, _main_legend(comparison))


def _main_columns(comparison: Comparison) -> list[ArmColumn]:
    to, target = comparison.summary.baseline, comparison.summary.target
    ratios = {arm: cost.ratio for arm, cost in comparison.costs.items() if cost.ratio is not None}
    step_time = ArmColumn("step time / baseline's", lambda arm: number(ratios.get(arm.arm)))
    return [
        ArmColumn("arm", lambda arm: arm.arm),
        ArmColumn("seeds", _seeds),
        _with_interval("test_accuracy", "test accuracy (%)"),
        ArmColumn(
            "difference (points)" if to is None else f"difference to {to} (points)",
            lambda arm: _corrected(arm.difference),
        ),
        ArmColumn("p (Holm)", lambda arm: MISSING if arm.difference is None else p_value(arm.difference.p_holm)),
        *([step_time] if ratios else []),
        _mean("angle_std", "filter angle std (deg)"),
        _mean("response_angle_std", "response angle std (deg)"),
        _with_interval("best_test_accuracy", "at the best epoch (%)"),
        _mean("epochs_to_target", "epochs to target" if target is None else f"epochs to {100 * target:.2f}%", 1),
        ArmColumn("std between seeds (points)", lambda arm: _deviation(arm.deviation)),
        _mean("angle_mean", "filter angle mean (deg)"),
        _mean("response_angle_mean", "response angle mean (deg)"),
        _mean("spread_ratio", "filter angle std / random"),
        _mean("max_abs_cos", "largest abs cos", 3),
    ]


def _main_legend(comparison: Comparison) -> list[str]:
    summary = comparison.summary
    confidence = f"{100 * summary.confidence:g}%"
    order = "" if summary.baseline is None else f" The arms are sorted by their difference to {summary.baseline}."
    return [
        "The main measure is the test accuracy with the weights of the last epoch; this was fixed beforehand. The "
        f"test accuracy at the epoch with the best validation accuracy is shown as well.{order}",
        f"In brackets: {confidence} intervals over seeds (Student's t; chi-square for the standard deviation), with "
        f"at least {FEWEST} seeds. The difference is paired: both arms have the same seeds. Its interval "
        "and the p value of the paired t test are corrected by Holm for the number of arms.",
        "Std means standard deviation; between seeds it is that of the test accuracies. Angles are means over layers "
        "after the last epoch. The cosine is the largest between any two filters of a layer. Filter angle std / random "
        "is the standard deviation divided by that of random directions: below 1 the filters are closer to right "
        "angles than random ones, above 1 some filters have become similar.",
        "Filter angles are the angles between the weights. Response angles are those between the responses of the "
        "filters to the inputs of the layer, from samples of the last step in which they were measured.",
    ]


_TESTED = ["p", "p (Holm)", "detectable"]


def differences(comparison: Comparison) -> Table:
    """Return the paired differences in full."""
    summary = comparison.summary
    confidence = f"{100 * summary.confidence:g}%"
    headings = ["arm", "pairs", f"difference [{confidence}]", "corrected interval", *_TESTED]
    rows = [_difference_row(arm.arm, arm.difference) for arm in summary.ranked if arm.difference is not None]
    legend = [
        "In points of test accuracy. The corrected interval has the level at which Holm's procedure tests the arm, so "
        "it excludes 0 exactly if the corrected p value is significant.",
        "Detectable: the true difference that this number of pairs would show with a probability of 80%, if the "
        f"standard deviation of the differences is the one found here; below {FEW} seeds it is only roughly known.",
    ]
    return Table("differences", f"Differences to {summary.baseline}", headings, rows, legend)


def _difference_row(arm: str, one: Difference) -> list[str]:
    corrected = interval(one.mean, one.low_holm, one.high_holm, sign="+").partition(" ")[2]
    return [
        arm,
        str(one.n),
        interval(one.mean, one.low, one.high, sign="+"),
        corrected or MISSING,
        p_value(one.p),
        p_value(one.p_holm),
        number(one.detectable),
    ]


def _of_factors(comparison: Comparison) -> list[Table]:
    """The tables about factors; none without them."""
    factorial, confidence = comparison.factorial, comparison.summary.confidence
    if factorial is None:
        return []
    return [
        factors.replacements(comparison.replacements, factorial.baseline, confidence),
        factors.combinations(factorial, confidence),
    ]


_OTHERS = {
    "mean_val_accuracy": ("mean of the validation accuracy over the epochs", "points"),
    "epochs_to_target": ("epochs to the target", "epochs"),
    "angle_std": ("filter angle std", "deg"),
    "response_angle_std": ("response angle std", "deg"),
}


def others(comparison: Comparison) -> Table:
    """Return the paired differences of the secondary measures, one row per measure and arm."""
    summary = comparison.summary
    rows = [
        [f"{words} ({unit})", *_difference_row(arm.arm, arm.others[name])]
        for name, (words, unit) in _OTHERS.items()
        for arm in summary.ranked
        if name in arm.others
    ]
    headings = ["measure", "arm", "pairs", f"difference [{100 * summary.confidence:g}%]", "corrected interval"]
    legend = [
        "The mean of the validation accuracy over the epochs is the area under its curve, which is larger if a "
        "training converges faster. Each measure is corrected by Holm for the number of arms, not of measures."
    ]
    return Table("others", f"Other differences to {summary.baseline}", [*headings, *_TESTED], rows, legend)


def costs(comparison: Comparison) -> Table:
    """Return time and memory of a step, which vary from run to run."""
    ranked = [arm.arm for arm in comparison.summary.ranked]
    order = sorted(comparison.costs, key=lambda arm: ranked.index(arm) if arm in ranked else len(ranked))
    headings = ["arm", "step (ms)", "step / baseline's", "peak memory (MB)", "memory / baseline's"]
    rows = [
        [arm, number(one.step_ms), number(one.ratio), number(one.peak_mb, 0), number(one.peak_ratio)]
        for arm, one in ((arm, comparison.costs[arm]) for arm in order)
    ]
    return Table("costs", "Cost of a step", headings, rows, ["Measured on the machine that is named below."])


def robustness(comparison: Comparison) -> Table:
    """Return the test accuracies on perturbed data."""
    columns = [_with_interval(ROBUSTNESS_PREFIX + kind, kind) for kind in _perturbations(comparison)]
    arms = comparison.summary.ranked if columns else ()
    rows = [[arm.arm, *(column.cell(arm) for column in columns)] for arm in arms]
    legend = ["Test accuracy in percent with its interval over seeds."]
    return Table("robustness", "On perturbed test data", ["arm", *(one.heading for one in columns)], rows, legend)


def robustness_differences(comparison: Comparison) -> Table:
    """Return the paired differences of the test accuracies on perturbed data."""
    summary, kinds = comparison.summary, _perturbations(comparison)
    rows = [
        [arm.arm, *(_corrected(arm.others.get(ROBUSTNESS_PREFIX + kind)) for kind in kinds)]
        for arm in summary.ranked
        if any(ROBUSTNESS_PREFIX + kind in arm.others for kind in kinds)
    ]
    legend = [
        f"Paired differences in points of test accuracy with corrected {100 * summary.confidence:g}% intervals. Each "
        "kind of perturbation is corrected by Holm for the number of arms, not of kinds."
    ]
    title = f"Differences to {summary.baseline} on perturbed test data"
    return Table("robustness-differences", title, ["arm", *kinds], rows, legend)


def _perturbations(comparison: Comparison) -> list[str]:
    names = dict.fromkeys(name for arm in comparison.summary.arms for name in arm.measures)
    return [name.removeprefix(ROBUSTNESS_PREFIX) for name in names if name.startswith(ROBUSTNESS_PREFIX)]


_MORE = (
    ArmColumn("arm", lambda arm: arm.arm),
    ArmColumn("validation accuracy (%)", lambda arm: estimate(arm.measures["val_accuracy"])),
    ArmColumn("best epoch", lambda arm: estimate(arm.measures["best_epoch"], 1)),
    ArmColumn("penalty", lambda arm: _penalty(arm.measures["penalty"])),
    ArmColumn("std between seeds / baseline's", lambda arm: _ratio(arm.deviation)),
    ArmColumn("p (Holm)", lambda arm: MISSING if arm.deviation is None else p_value(arm.deviation.p_holm)),
)


def more(comparison: Comparison) -> Table:
    """Return further measures that help to understand the result."""
    rows = [[column.cell(arm) for column in _MORE] for arm in comparison.summary.arms]
    legend = [
        "Epochs count from 1. The penalty is that of the last step, before its weight, in each regularizer's own "
        "units. The ratio of standard deviations is of the seeds that both arms have. Its interval and p value are "
        "those of the test of Pitman and Morgan for pairs, corrected by Holm for the number of arms."
    ]
    return Table("more", "More measures", [column.heading for column in _MORE], rows, legend)


_LAYERS = (
    LayerColumn("filter angle mean (deg)", lambda layer, arm: number(arm.measures["mean"])),
    LayerColumn("filter angle std (deg)", lambda layer, arm: number(arm.measures["std"])),
    LayerColumn("random std (deg)", lambda layer, arm: number(layer.null_std)),
    LayerColumn("filter angle std / random", lambda layer, arm: number(arm.measures["spread_ratio"])),
    LayerColumn("rms cos", lambda layer, arm: number(arm.measures["rms_cos"], 3)),
    LayerColumn("Welch floor", lambda layer, arm: number(layer.welch_floor, 3) if layer.k > layer.d else MISSING),
    LayerColumn("largest abs cos", lambda layer, arm: number(arm.measures["max_abs_cos"], 3)),
    LayerColumn("response angle mean (deg)", lambda layer, arm: number(arm.measures["response_mean"])),
    LayerColumn("response angle std (deg)", lambda layer, arm: number(arm.measures["response_std"])),
)


def layers(comparison: Comparison) -> Table:
    """Return the angles of each layer after the last epoch, one row per layer and arm."""
    rows = [
        [layer.name, str(layer.k), str(layer.d), arm, *(column.cell(layer, one) for column in _LAYERS)]
        for layer in comparison.summary.layers
        for arm, one in layer.arms.items()
    ]
    legend = [
        "k filters (in each group) in d dimensions; means over seeds. If a layer has more filters than dimensions, not "
        "all can be orthogonal: their root mean square (rms) cosine cannot fall below Welch's floor."
    ]
    headings = ["layer", "k", "d", "arm", *(column.heading for column in _LAYERS)]
    return Table("layers", "Layers after the last epoch", headings, rows, legend)


def failures(comparison: Comparison) -> Table:
    """Return the runs without an accuracy, and the reasons."""
    rows = [[arm.arm, str(one.seed), one.reason] for arm in comparison.summary.arms for one in arm.failed]
    return Table("failures", "Failed runs", ["arm", "seed", "reason"], rows)


def _with_interval(name: str, heading: str) -> ArmColumn:
    return ArmColumn(heading, lambda arm: estimate(arm.measures[name]))


def _mean(name: str, heading: str, digits: int = 2) -> ArmColumn:
    return ArmColumn(heading, lambda arm: number(arm.measures[name].mean, digits))


def _corrected(one: Difference | None) -> str:
    return MISSING if one is None else interval(one.mean, one.low_holm, one.high_holm, sign="+")


def _deviation(one: SeedDeviation | None) -> str:
    return MISSING if one is None else interval(one.std, one.low, one.high)


def _ratio(one: SeedDeviation | None) -> str:
    return MISSING if one is None else interval(one.ratio, one.ratio_low, one.ratio_high)


def _penalty(one: Estimate) -> str:
    return MISSING if one.mean is None else f"{one.mean:.4g}"


def _seeds(arm: ArmSummary) -> str:
    return f"{arm.finished} of {arm.runs}" if arm.failed else str(arm.finished)
