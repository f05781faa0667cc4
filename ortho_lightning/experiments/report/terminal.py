"""A comparison in a terminal: few columns and plain words."""

from __future__ import annotations

from collections.abc import Iterator

from ortho_lightning.experiments.comparison.summary import ArmSummary
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.table import number
from ortho_lightning.tables import markdown_table

_KINDS = {"filter": "angle_std", "response": "response_angle_std"}
_WORDS = """\
Filter angles are the angles between the weights of a layer's filters, response angles those between the responses of
the filters to their inputs. The numbers are standard deviations, means over layers. The smaller they are, the closer
all angles are to their mean."""


def terminal(comparison: Comparison) -> str:
    """Return accuracy, both kinds of angle and the time of a step of each arm, and what they mean."""
    summary = comparison.summary
    costs = comparison.costs if summary.baseline in comparison.costs else {}
    ratios = {arm: cost.ratio for arm, cost in costs.items() if cost.ratio is not None}
    headings = ["arm", "seeds", "test accuracy", "filter angles (std)", "response angles (std)"]
    rows = [
        [arm.arm, str(arm.finished), _percent(arm), *(_degrees(arm, name) for name in _KINDS.values())]
        for arm in summary.ranked
    ]
    if ratios:
        headings.append("time of a step")
        for row, arm in zip(rows, summary.ranked, strict=True):
            row.append(f"{number(ratios[arm.arm])} times {summary.baseline}'s" if arm.arm in ratios else "-")
    return "\n\n".join([markdown_table([headings, *rows]), _WORDS, *_narrowest(comparison)])


def _narrowest(comparison: Comparison) -> Iterator[str]:
    """For each kind of angle the arm with the smallest standard deviation, and that of the baseline."""
    summary = comparison.summary
    baseline = next((arm for arm in summary.arms if arm.arm == summary.baseline), None)
    for kind, name in _KINDS.items():
        known = {arm.arm: value for arm in summary.arms if (value := arm.measures[name].mean) is not None}
        if baseline is None or baseline.arm not in known or len(known) < 2:
            continue
        least = min(known, key=lambda arm: known[arm])
        if least == baseline.arm:
            yield f"No arm has narrower {kind} angles than {baseline.arm} ({known[least]:.1f} degrees)."
        else:
            yield (
                f"The {kind} angles are narrowest with {least}: {known[least]:.1f} degrees; "
                f"with {baseline.arm} {known[baseline.arm]:.1f}."
            )


def _percent(arm: ArmSummary) -> str:
    one = arm.accuracy
    if one.mean is None:
        return "failed" if arm.failed else "-"
    return f"{one.mean:.2f}%" + ("" if one.low is None else f" ({one.low:.2f} to {one.high:.2f})")


def _degrees(arm: ArmSummary, name: str) -> str:
    one = arm.measures[name].mean
    return "-" if one is None else f"{one:.1f} degrees"
