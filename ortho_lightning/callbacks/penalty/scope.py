"""Scope of a fit: the training steps that belong to a callback."""

from __future__ import annotations

from typing import Any


class FitScope:
    """The fit that a callback serves, and the batch of it that is running.

    A training step is the callback's if its Trainer is that of the fit and the callback heard of the batch's begin.
    Learning-rate and batch-size finders that run inside of a fit put other callbacks in the place of all that there
    are for their trials: the callback hears of no batch then, or, if the trial runs within a batch, of those that were
    there when the batch began none is left. Membership in the list is not asked for, since another callback may
    forward its hooks to this one, and the list may be edited while the batch runs. A callback that is taken out of the
    list within a batch hears of no end: the next batch is not its own, which the Trainer's count of batches tells.
    """

    def __init__(self) -> None:
        self._trainer: Any = None
        self._batch_callbacks: list[Any] = []  # those of the list when the batch began
        self._batch = -1

    def enter(self, trainer: Any) -> None:
        """Begin the fit of ``trainer``."""
        self._trainer = trainer
        self._batch_callbacks = []

    def leave(self) -> None:
        """End the fit."""
        self._trainer = None
        self._batch_callbacks = []

    def begin_batch(self, trainer: Any) -> None:
        """Begin a batch of the fit."""
        self._batch_callbacks = list(trainer.callbacks) if trainer is self._trainer else []
        self._batch = trainer.fit_loop.total_batch_idx

    def end_batch(self) -> None:
        """End the batch."""
        self._batch_callbacks = []

    @property
    def is_over(self) -> bool:
        """Whether the fit has ended, even if nobody told the callback."""
        return self._trainer is None or self._trainer.state.status != "running"

    def serves(self, trainer: Any) -> bool:
        """Return whether a training step that ``trainer`` runs now belongs to the callback's fit."""
        if trainer is None or trainer is not self._trainer or trainer.fit_loop.total_batch_idx != self._batch:
            return False
        return any(now is before for now in trainer.callbacks for before in self._batch_callbacks)
