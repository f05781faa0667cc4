"""Scope of a fit: the training steps that belong to a callback."""

from __future__ import annotations

from typing import Any


class FitScope:
    """The fit that a callback serves, and the batch of it that is running.

    A training step is the callback's if its Trainer is that of the fit and the callback heard of the batch's begin.
    Learning-rate and batch-size finders that run inside of a fit replace ``trainer.callbacks`` for their trials: the
    callback hears of no batch then, or, if the trial runs within a batch, the list is another one. Membership in the
    list is not asked for, since another callback may forward its hooks to this one.
    """

    def __init__(self) -> None:
        self._trainer: Any = None
        self._callbacks: Any = None

    def enter(self, trainer: Any) -> None:
        """Begin the fit of ``trainer``."""
        self._trainer = trainer
        self._callbacks = None

    def leave(self) -> None:
        """End the fit."""
        self._trainer = self._callbacks = None

    def begin_batch(self, trainer: Any) -> None:
        """Begin a batch of the fit."""
        self._callbacks = trainer.callbacks if trainer is self._trainer else None

    def end_batch(self) -> None:
        """End the batch."""
        self._callbacks = None

    @property
    def is_over(self) -> bool:
        """Whether the fit has ended, even if nobody told the callback."""
        return self._trainer is None or self._trainer.state.status != "running"

    def serves(self, trainer: Any) -> bool:
        """Return whether a training step that ``trainer`` runs now belongs to the callback's fit."""
        return trainer is not None and trainer is self._trainer and trainer.callbacks is self._callbacks
