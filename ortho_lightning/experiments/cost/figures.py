"""The figure of a sweep of the benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ortho_lightning.experiments.cost.steps import CaseCost
from ortho_lightning.files import whole_file
from ortho_lightning.plots.palette import colour

_SWEPT = {"batch_size": "batch size", "resolution": "pixels a side", "width": "width of the network"}


def save_sweep_figure(path: Path, costs: Sequence[CaseCost]) -> None:
    """Write a PNG of the time ratio with its standard error over the swept quantity, one line for each arm.

    Nothing is written unless exactly one quantity of one network has several values.
    """
    swept = [key for key in _SWEPT if len({getattr(cost, key) for cost in costs}) > 1]
    if len(swept) != 1 or len({cost.network for cost in costs}) > 1:
        return
    figure = Figure(figsize=(6, 3.8), layout="constrained")
    axis = figure.add_subplot()
    for number, arm in enumerate(dict.fromkeys(cost.arm for cost in costs)):
        own = [cost for cost in costs if cost.arm == arm]
        values = [getattr(cost, swept[0]) for cost in own]
        aside = [value * 2 ** (0.02 * number) for value in values]  # so that the bars do not cover each other
        errors = [cost.ratio_error for cost in own]
        axis.errorbar(aside, [cost.ratio for cost in own], errors, fmt="o-", capsize=3, label=arm, color=colour(number))
        axis.set_xscale("log", base=2)
        axis.set_xticks(values, [str(value) for value in values])
    axis.set_xlabel(_SWEPT[swept[0]])
    axis.set_ylabel("step time / without a penalty")
    axis.set_title(f"{costs[0].network}: cost of a training step", fontsize=10)
    axis.grid(alpha=0.3)
    axis.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
