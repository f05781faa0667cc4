"""Handing scalars and histograms to whatever loggers a Trainer has."""

from __future__ import annotations

from typing import Any

import torch

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
    if not trainer.is_global_zero or statistics.pairs == 0:
        return
    bins = len(statistics.counts)
    limits = [180.0 * (i + 1) / bins for i in range(bins)]
    for logger in trainer.loggers:
        # TensorBoard's writer, found by what it can do: it comes from several packages
        write = getattr(getattr(logger, "experiment", None), "add_histogram_raw", None)
        if callable(write):
            write(
                tag,
                min=statistics.min,
                max=statistics.max,
                num=statistics.pairs,
                sum=statistics.total,
                sum_squares=statistics.total_squares,
                bucket_limits=limits,
                bucket_counts=statistics.counts.tolist(),
                global_step=log_step(trainer),
            )
