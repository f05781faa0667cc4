"""Handing scalars and histograms to whatever loggers a Trainer has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ortho_lightning.functional import AngleStatistics


def log_step(trainer: Any) -> int:
    """The x axis that Lightning uses for its own metrics."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def log_scalars(trainer: Any, metrics: dict[str, float]) -> None:
    """Give scalars to every logger, and to ``callback_metrics`` for EarlyStopping and ModelCheckpoint."""
    device = trainer.strategy.root_device
    trainer.callback_metrics.update({name: torch.tensor(value, device=device) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=log_step(trainer))


def log_angle_histogram(trainer: Any, tag: str, statistics: AngleStatistics) -> None:
    """Give a histogram of angles to the loggers that have histograms; bins are fixed, so that epochs compare."""
    if statistics.pairs == 0:
        return
    bins = len(statistics.counts)
    _write_histogram(
        trainer,
        tag,
        limits=[180.0 * (i + 1) / bins for i in range(bins)],
        counts=statistics.counts,
        extremes=(statistics.min, statistics.max),
        sums=(statistics.total, statistics.total_squares),
    )


def log_spectrum(trainer: Any, tag: str, eigenvalues: Tensor) -> None:
    """Give a histogram of the eigenvalues, as decades below the largest, in fixed bins of a quarter decade."""
    floor, bins = -16.0, 64
    relative = (eigenvalues / eigenvalues.amax().clamp_min(torch.finfo(eigenvalues.dtype).tiny)).double()
    decades = relative.clamp_min(10.0**floor).log10()
    _write_histogram(
        trainer,
        tag,
        limits=[floor * (1 - (i + 1) / bins) for i in range(bins)],
        counts=torch.histc(decades, bins=bins, min=floor, max=0.0),
        extremes=(decades.min().item(), decades.max().item()),
        sums=(decades.sum().item(), decades.square().sum().item()),
    )


def _write_histogram(
    trainer: Any,
    tag: str,
    limits: list[float],
    counts: Tensor,
    extremes: tuple[float, float],
    sums: tuple[float, float],
) -> None:
    if not trainer.is_global_zero:
        return
    for logger in trainer.loggers:
        # TensorBoard's writer, found by what it can do: it comes from several packages
        write = getattr(getattr(logger, "experiment", None), "add_histogram_raw", None)
        if callable(write):
            write(
                tag,
                min=extremes[0],
                max=extremes[1],
                num=int(counts.sum()),
                sum=sums[0],
                sum_squares=sums[1],
                bucket_limits=limits,
                bucket_counts=counts.tolist(),
                global_step=log_step(trainer),
            )
