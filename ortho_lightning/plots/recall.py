"""Figure of a search without labels: recall over the number of components and the bytes of a vector."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ortho_lightning.files import whole_file
from ortho_lightning.plots.palette import GREY, ORANGE, colour

_BYTES = 4  # of a number in float32


def save_recall_figure(
    path: str | os.PathLike[str],
    components: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    chosen: tuple[int, float] | None = None,
    neighbours: int = 10,
    title: str = "",
) -> None:
    """Write a PNG.

    Args:
        path: of the file.
        components: values of k.
        lines: recall at each k, by the name of a whitening.
        chosen: k and recall to mark; None: none.
        neighbours: number of neighbours that count.
        title: of the figure; "": none.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for number, (name, recall) in enumerate(lines.items()):
        axis.plot(components, [100 * value for value in recall], color=colour(number), label=name)
    if chosen is not None:
        k, reached = chosen
        axis.axhline(100 * reached, color=GREY, linewidth=0.8, linestyle=":")
        axis.plot(k, 100 * reached, "o", color=ORANGE, label=f"k = {k}: {100 * reached:.1f}%, {_BYTES * k} bytes")
    axis.set_xscale("log", base=2)
    axis.set_xlabel("components k")
    axis.set_ylabel(f"recall@{neighbours} (%)")
    axis.set_ylim(0, 101)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    above = axis.secondary_xaxis("top", functions=(_bytes_of, _components_of))
    above.set_xlabel("bytes per vector (float32)")
    if title:
        figure.suptitle(title, fontsize=10)
    with whole_file(Path(path)) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _bytes_of(components: Any) -> Any:
    return _BYTES * components


def _components_of(size: Any) -> Any:
    return size / _BYTES
