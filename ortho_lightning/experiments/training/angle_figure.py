"""The angles before and after training: snapshots, the figure of them, and the records of the layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from ortho_lightning.layers.selection import select_parts
from ortho_lightning.plots.palette import BLUE, ORANGE

_COLUMNS = 4
_LONGEST = 32  # characters of a name that fit above an axis


@dataclass(frozen=True)
class AngleSnapshot:
    """The angles of the selected layers at one moment.

    Args:
        angles: filter angles by layer.
        responses: response angles by layer, of those layers that have them.
    """

    angles: Mapping[str, OF.AngleStatistics]
    responses: Mapping[str, OF.ResponseStatistics] = field(default_factory=dict)

    @classmethod
    def of(cls, callback: OrthogonalityCallback | None, model: nn.Module) -> AngleSnapshot:
        """Measure the layers that ``callback`` selects in ``model``; none without a callback.

        Response angles are those that its monitor measured last.
        """
        if callback is None:
            return cls({})
        responses = {} if callback.monitor is None else dict(callback.monitor.responses)
        return cls(layer_angles(select_parts(model, callback.layers, callback.exclude, outputs="allowed")), responses)


def layer_records(report: Sequence[Mapping[str, Any]], snapshot: AngleSnapshot) -> tuple[LayerRecord, ...]:
    """Return the angle report with the histograms of each layer, in bins of 2 degrees; of layers with filters only."""
    return tuple(_layer_record(row, snapshot) for row in report if row["k"] is not None)


def _layer_record(row: Mapping[str, Any], snapshot: AngleSnapshot) -> LayerRecord:
    # a resumed run has another first step
    values = {key: value for key, value in row.items() if key != "response_std_before"}
    responses = snapshot.responses.get(row["name"])
    histograms = {
        "counts": snapshot.angles[row["name"]].counts.tolist(),
        "response_counts": [] if responses is None else responses.counts.tolist(),
    }
    return LayerRecord.from_json(without_nan({**values, **histograms}))


def save_angle_figure(path: Path, before: AngleSnapshot, after: AngleSnapshot) -> None:
    """Draw histograms of each layer's angles before and after training, beside what they are compared with.

    Below the filter angles of a layer are its response angles, if those of any layer were measured.

    Args:
        path: of the PNG.
        before: training; its response angles are left out of the figure where it has none.
        after: training.
    """
    names = [name for name in after.angles if after.angles[name].pairs > 0]
    if not names:
        return
    kinds = [_draw_filters, _draw_responses] if after.responses else [_draw_filters]
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.2 * columns, 2.3 * rows * len(kinds) + 0.5))
    axes = figure.subplots(rows * len(kinds), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        for kind, draw in enumerate(kinds):
            axis = axes[row * len(kinds) + kind, column]
            axis.set_visible(True)
            axis.set_title(f"{_short(name)}  (d = {after.angles[name].d})" if kind == 0 else "", fontsize=8)
            axis.tick_params(labelsize=7)
            draw(axis, name, before, after)
    _draw_legend(figure)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _draw_filters(axis: Axes, name: str, before: AngleSnapshot, after: AngleSnapshot) -> None:
    for snapshot, colour, label in _moments(before, after):
        statistics = snapshot.angles.get(name)
        if statistics is not None and statistics.pairs > 0:
            plots.draw_angles(axis, statistics, colour, label)
    plots.draw_references(axis, after.angles[name])
    axis.set_xlabel(_described("filter", before.angles.get(name), after.angles[name]), fontsize=7)


def _draw_responses(axis: Axes, name: str, before: AngleSnapshot, after: AngleSnapshot) -> None:
    statistics = after.responses.get(name)
    if statistics is None:
        axis.set_axis_off()
        axis.text(0.5, 0.5, "response angles: not measured", ha="center", fontsize=7, transform=axis.transAxes)
        return
    for snapshot, colour, label in _moments(before, after):
        if name in snapshot.responses:
            plots.draw_responses(axis, snapshot.responses[name], colour, label)
    drawn = [snapshot.responses[name] for snapshot in (before, after) if name in snapshot.responses]
    plots.draw_response_references(axis, *drawn)
    axis.set_xlabel(_described("response", before.responses.get(name), statistics), fontsize=7)


def _short(name: str) -> str:
    """Return the end of a name, which tells layers apart."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


def _moments(before: AngleSnapshot, after: AngleSnapshot) -> Iterator[tuple[AngleSnapshot, str, str]]:
    yield before, BLUE, "before training"
    yield after, ORANGE, "after training"


def _described(
    kind: str,
    before: OF.AngleStatistics | OF.ResponseStatistics | None,
    after: OF.AngleStatistics | OF.ResponseStatistics,
) -> str:
    """Return the label of an axis, with the standard deviations that are drawn."""
    change = f"{after.std:.1f}" if before is None else f"{before.std:.1f} → {after.std:.1f}"
    return f"{kind} angle in degrees; std {change}"


def _draw_legend(figure: Figure) -> None:
    """Draw one legend for all axes."""
    handles: dict[str, Any] = {}
    for axis in figure.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(list(handles.values()), list(handles), loc="upper center", ncols=4, frameon=False)
