"""Logging to every logger of a Trainer; what each kind of logger takes is in ``adapters``."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from ortho_lightning.callbacks.monitoring.adapters import Adapter, Histogram, Layout, Table, adapter_for
from ortho_lightning.functional import AngleStatistics, ResponseStatistics


def log_step(trainer: Any) -> int:
    """Return the x axis that Lightning uses for its own metrics."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def adapters(trainer: Any) -> list[Adapter]:
    """Return an adapter for each logger; none on processes other than the first, whose loggers write nothing."""
    return [adapter_for(logger) for logger in trainer.loggers] if trainer.is_global_zero else []


def log_scalars(trainer: Any, metrics: dict[str, float], step: int | None = None) -> None:
    """Give scalars to every logger, and to ``callback_metrics`` for EarlyStopping and ModelCheckpoint.

    Args:
        trainer: whose loggers get them.
        metrics: by their whole name.
        step: the x axis; None: now.
    """
    device = trainer.strategy.root_device
    trainer.callback_metrics.update({name: torch.tensor(value, device=device) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(metrics=metrics, step=log_step(trainer) if step is None else step)


def log_angle_histogram(trainer: Any, tag: str, statistics: AngleStatistics | ResponseStatistics) -> None:
    """Give a histogram of angles to the loggers that have histograms; bins are fixed, so that epochs compare."""
    if statistics.pairs:
        bins = len(statistics.counts)
        histogram = Histogram(
            edges=[180.0 * i / bins for i in range(bins + 1)],
            counts=statistics.counts.tolist(),
            min=statistics.min,
            max=statistics.max,
            total=statistics.total,
            total_squares=statistics.total_squares,
        )
        _log_histogram(trainer, tag, histogram)


def log_spectrum(trainer: Any, tag: str, eigenvalues: Tensor) -> None:
    """Give a histogram of the eigenvalues, as decades below the largest, in fixed bins of a quarter decade."""
    floor, bins = -16.0, 64
    relative = (eigenvalues / eigenvalues.amax().clamp_min(torch.finfo(eigenvalues.dtype).tiny)).double()
    decades = relative.clamp_min(10.0**floor).log10()
    histogram = Histogram(
        edges=[floor * (1 - i / bins) for i in range(bins + 1)],
        counts=torch.histc(decades, bins=bins, min=floor, max=0.0).tolist(),
        min=decades.min().item(),
        max=decades.max().item(),
        total=decades.sum().item(),
        total_squares=decades.square().sum().item(),
    )
    _log_histogram(trainer, tag, histogram)


def _log_histogram(trainer: Any, tag: str, histogram: Histogram) -> None:
    for adapter in adapters(trainer):
        adapter.histogram(tag, histogram, log_step(trainer))


def log_text(trainer: Any, tag: str, markdown: str) -> None:
    """Give a text in Markdown to the loggers that have texts."""
    for adapter in adapters(trainer):
        adapter.text(tag, markdown, log_step(trainer))


def log_table(trainer: Any, tag: str, table: Table) -> None:
    """Give a table to the loggers that have tables or texts."""
    for adapter in adapters(trainer):
        adapter.table(tag, table, log_step(trainer))


def log_layout(trainer: Any, layout: Layout) -> None:
    """Give the loggers that arrange scalars their layout; once a run, since TensorBoard reads the first only."""
    for adapter in adapters(trainer):
        adapter.layout(layout)


def log_hyperparameters(
    trainer: Any, values: Mapping[str, str | float], metrics: Mapping[str, str], shown: Container[str]
) -> None:
    """Give every logger the hyperparameters of the run; see :meth:`Adapter.hyperparameters`."""
    for adapter in adapters(trainer):
        adapter.hyperparameters(values, metrics, shown)
