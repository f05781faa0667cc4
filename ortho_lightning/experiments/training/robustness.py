"""Test accuracy on noisy, incomplete or differently posed test data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from ortho_lightning.data.module import TensorDataModule


def robustness(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> dict[str, float]:
    """Return the test accuracy, from 0 to 1, under each of the data's perturbations; ``{}`` for data that have none.

    The perturbations depend on the data's own seed alone, so that every arm and every seed gets the same ones. The
    loggers get nothing of this; ``trainer.callback_metrics`` holds the last perturbation's figures afterwards.

    Args:
        trainer: tests the model as it is now, where and how it trained it.
        model: logs ``test/accuracy``.
        data: see :meth:`TensorDataModule.perturbations`.
    """
    found: dict[str, float] = {}
    if not isinstance(data, TensorDataModule):
        return found
    for name in data.perturbations():
        with data.perturbed(name), no_loggers(trainer):
            tested = (trainer.test(model, data, verbose=False) or [{}])[0]
        if "test/accuracy" in tested:  # not so where trainer.limit_test_batches=0
            found[name] = tested["test/accuracy"]
    return found


@contextlib.contextmanager
def no_loggers(trainer: Any) -> Iterator[None]:
    """Log nothing within: test/accuracy in the logs is that of the last epoch on unperturbed data."""
    before, trainer.loggers = trainer.loggers, []
    try:
        yield
    finally:
        trainer.loggers = before
