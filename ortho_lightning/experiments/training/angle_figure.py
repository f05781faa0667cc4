"""The angles before and after training: snapshots, the figure of them, and the records of the layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

from ortho_lightning import OrthogonalityCallback, plots
from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring.angles import layer_angles
from ortho_lightning.experiments.common.records import LayerRecord, without_nan
from ortho_lightning.files import whole_file
from ortho_lightning.layers.selection import select_layers
from ortho_lightning.plots.palette import BLUE, ORANGE

_COLUMNS = 4


@dataclass(frozen=True)
class AngleSnapshot:
    """The angles of the selected layers at one moment."""

    angles: dict[str, OF.AngleStatistics]

    @classmethod
    def of(cls, callback: OrthogonalityCallback | None, model: nn.Module) -> AngleSnapshot:
        """Measure the layers that ``callback`` selects in ``model``; none without a callback."""
        if callback is None:
            return cls({})
        return cls(layer_angles(select_layers(model, callback.layers, callback.exclude)))


def layer_records(report: Sequence[Mapping[str, Any]], snapshot: AngleSnapshot) -> tuple[LayerRecord, ...]:
    """Return the angle report with the histogram of each layer, in bins of 2 degrees."""
    return tuple(
        LayerRecord.from_json(without_nan({**layer, "counts": snapshot.angles[layer["name"]].counts.tolist()}))
        # a resumed run has another first step
        for layer in ({key: value for key, value in row.items() if key != "response_std_before"} for row in report)
    )


def save_angle_figure(path: Path, before: AngleSnapshot, after: AngleSnapshot) -> None:
    """Draw histograms of each layer's angles before and after training, and the density of random directions."""
    names = [name for name in after.angles if after.angles[name].pairs > 0]
    if not names:
        return
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        _draw_layer(axis, name, before, after)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_layer(axis: Axes, name: str, before: AngleSnapshot, after: AngleSnapshot) -> None:
    for snapshot, colour, label in ((before, BLUE, "before training"), (after, ORANGE, "after training")):
        statistics = snapshot.angles.get(name)
        if statistics is not None and statistics.pairs > 0:
            plots.draw_angles(axis, statistics, colour, label)
    statistics = after.angles[name]
    plots.draw_references(axis, statistics)
    axis.set_title(f"{name}  (d = {statistics.d})", fontsize=8)
    axis.set_xlabel(f"angle in degrees; standard deviation {statistics.std:.1f}", fontsize=7)
    axis.tick_params(labelsize=7)
