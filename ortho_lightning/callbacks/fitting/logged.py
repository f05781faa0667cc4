"""Scalars and histograms that describe a fitted whitening."""

from __future__ import annotations

from typing import Any

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.fitting.gathering import Gathering
from ortho_lightning.callbacks.monitoring import loggers
from ortho_lightning.nn import Whitening


def log_whitening(trainer: Any, name: str, whitening: Whitening, gathering: Gathering) -> None:
    """Log a whitening and the vectors that it was fitted on; collective over processes.

    Args:
        trainer: its loggers receive the values.
        name: prefix of the logged names.
        whitening: fitted, on the CPU.
        gathering: of the vectors, after :meth:`Gathering.join`.
    """
    spectrum = whitening.spectrum
    after = spectrum * OF.whitening_scales(spectrum, whitening.gamma).square()
    after = after[: whitening.projection.shape[1]]
    device = trainer.strategy.root_device
    scalars = {
        "rank": float(whitening.rank),
        "explained_variance": whitening.explained_variance_ratio.sum().item(),
        "effective_rank": whitening.effective_rank,
        "effective_rank_after": OF.effective_rank(after),
        "mean_cosine": gathering.mean_cosine(),
        "mean_cosine_after": gathering.mean_cosine_after(lambda sample: whitening(sample.cpu()), device),
    }
    loggers.log_scalars(trainer, {f"{name}/{key}": value for key, value in scalars.items()})
    loggers.log_spectrum(trainer, f"{name}/spectrum", spectrum)
    loggers.log_spectrum(trainer, f"{name}/spectrum_after", after)
