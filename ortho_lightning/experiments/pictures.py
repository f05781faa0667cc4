"""Pictures of angle histograms, made by the program itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from torch import nn

from ortho_lightning import OrthogonalityCallback, kernels
from ortho_lightning import functional as OF
from ortho_lightning.callbacks.measure import layer_angles
from ortho_lightning.files import whole_file

# Blue and orange of Okabe and Ito's palette, told apart by colour-blind readers.
_BEFORE, _AFTER, _NULL = "#56B4E9", "#D55E00", "#444444"
_COLUMNS = 4


@dataclass(frozen=True)
class AngleSnapshot:
    """The angles of the selected layers at one moment."""

    angles: dict[str, OF.AngleStatistics]

    @classmethod
    def of(cls, callback: OrthogonalityCallback | None, model: nn.Module) -> AngleSnapshot:
        """The layers that ``callback`` selects in ``model``; none without a callback."""
        if callback is None:
            return cls({})
        return cls(layer_angles(kernels.select_layers(model, callback.layers, callback.exclude)))


def null_density(degrees: np.ndarray, d: int) -> np.ndarray:
    """Density, per degree, of the angle between random directions in R^d: proportional to sin^(d-2)."""
    if d < 2:
        return np.full_like(degrees, np.nan)
    log_area = math.lgamma(d / 2) - math.lgamma((d - 1) / 2) - 0.5 * math.log(math.pi)
    with np.errstate(divide="ignore"):
        return np.exp(log_area + (d - 2) * np.log(np.sin(np.radians(degrees)))) * math.pi / 180


def save_angle_picture(path: Path, before: AngleSnapshot, after: AngleSnapshot) -> None:
    """Histograms of each layer's angles before and after training, and the density of random directions."""
    names = [name for name in after.angles if after.angles[name].pairs > 0]
    if not names:
        return
    columns = min(_COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.4 * rows + 0.5), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        _draw_layer(axis, name, before, after)
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _draw_layer(axis: plt.Axes, name: str, before: AngleSnapshot, after: AngleSnapshot) -> None:
    bins = len(after.angles[name].counts)
    edges = np.linspace(0, 180, bins + 1)
    for snapshot, colour, label in ((before, _BEFORE, "before training"), (after, _AFTER, "after training")):
        statistics = snapshot.angles.get(name)
        if statistics is not None and statistics.pairs > 0:
            density = statistics.counts.numpy() / statistics.pairs * bins / 180
            axis.stairs(density, edges, fill=True, alpha=0.55, color=colour, label=label)
    degrees = np.linspace(0.5, 179.5, 359)
    d = after.angles[name].d
    axis.plot(degrees, null_density(degrees, d), color=_NULL, linewidth=1, linestyle="--", label="random directions")
    statistics = after.angles[name]
    reach = max(25.0, 4 * OF.null_std(d), 4 * statistics.std)
    axis.set_xlim(max(0.0, 90 - reach), min(180.0, 90 + reach))
    axis.set_title(f"{name}  (d = {d})", fontsize=8)
    axis.set_xlabel(f"angle in degrees; spread {statistics.std:.1f}", fontsize=7)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
