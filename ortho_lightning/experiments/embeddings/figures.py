"""Pictures of what there is to whiten."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ortho_lightning import functional as OF
from ortho_lightning.files import whole_file

_COLOURS = ("#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#0072B2")  # Okabe and Ito's palette


def save_spectrum_picture(path: Path, moments: Mapping[str, OF.Moments]) -> None:
    """For each set of vectors: its share of variance by component, and how fast the shares add up."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    shares_axis, sums_axis = figure.subplots(1, 2)
    for number, (name, found) in enumerate(moments.items()):
        spectrum, _ = OF.principal_axes(found, beta=1.0)
        shares = (spectrum / spectrum.sum().clamp_min(1e-300)).numpy()
        kept = OF.numerical_rank(spectrum)
        colour = _COLOURS[number % len(_COLOURS)]
        components = np.arange(1, len(shares) + 1)
        label = f"{name}: effective rank {OF.effective_rank(spectrum):.0f} of {found.d}"
        shares_axis.plot(components[:kept], shares[:kept], color=colour, label=label)
        sums_axis.plot(components, 100 * shares.cumsum(), color=colour)
    shares_axis.set_yscale("log")
    shares_axis.set_ylabel("share of the variance")
    sums_axis.set_ylabel("kept variance (%)")
    sums_axis.set_ylim(0, 101)
    for axis in (shares_axis, sums_axis):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("component")
        axis.grid(alpha=0.3)
    shares_axis.legend(frameon=False, fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
