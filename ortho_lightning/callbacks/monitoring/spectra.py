"""Spectra of a model's layers as scalars and as parts of a report: ranks, singular values and dead filters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring.angles import current_filters
from ortho_lightning.layers.filters import Layer

# The model's scalars from those of its layers.
_JOINED: dict[str, Callable[[Collection[float]], float]] = {
    "stable_rank": lambda values: sum(values) / len(values),
    "effective_rank": lambda values: sum(values) / len(values),
    "largest_singular_value": max,
    "smallest_singular_value": min,
    "dead_filters": sum,
}


def layer_spectra(layers: Mapping[str, Layer]) -> dict[str, OF.SpectrumStatistics]:
    """Return the spectrum statistics of each layer that has weights yet, of all of its filters."""
    measured = {}
    for name, module in layers.items():
        kernel = current_filters(module)
        if kernel is not None:
            measured[name] = OF.spectrum_statistics(kernel)
    return measured


def spectrum_scalars(measured: Mapping[str, OF.SpectrumStatistics]) -> dict[str, float]:
    """Return scalars of each layer, ``<scalar>/<layer>``, and of the model.

    Those of the model are the means of the ranks over layers, the largest and the smallest singular value of any layer,
    and the number of dead filters in all of them.
    """
    scalars: dict[str, float] = {}
    for key, joined in _JOINED.items() if measured else ():
        values = {name: float(asdict(statistics)[key]) for name, statistics in measured.items()}
        scalars |= {f"{key}/{name}": value for name, value in values.items()}
        scalars[key] = joined(values.values())
    return scalars
