"""The penalty's weight through a training: a number, or what holds a share of the task's gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ortho_lightning.weights import GradientShare

_TRIES = 10  # measurements without a result after which it is told


class Measurements:
    """When to measure gradients: at the first penalty of an interval, and at all others of the same batch."""

    def __init__(self) -> None:
        self.last = -1
        """The interval that was measured last."""
        self._batch = -1

    def is_due(self, interval: int, batch: int) -> bool:
        """Return whether to measure in this batch.

        Args:
            interval: the number of the interval that the step is in.
            batch: a number of its own.
        """
        if interval != self.last:
            self.last, self._batch = interval, batch
        return batch == self._batch


class PenaltyWeight:
    """The weight before the schedule, and the measurements that set it.

    Args:
        rule: a number, or how to set it.
    """

    def __init__(self, rule: float | GradientShare) -> None:
        self.rule = rule
        self.value: float | None = None
        """The weight; None before the first measurement."""
        self._before: float | None = None  # the batch that measures
        self._batch = -1
        self._misses = 0
        self.begin()

    def begin(self) -> None:
        """Begin a training anew."""
        self.value = None if isinstance(self.rule, GradientShare) else float(self.rule)
        self._misses = 0
        self._measurements = Measurements()

    @property
    def measures(self) -> bool:
        """Whether the weight is set by measurements."""
        return isinstance(self.rule, GradientShare)

    @property
    def is_zero(self) -> bool:
        """Whether no penalty can ever join the loss."""
        return self.value == 0

    def is_due(self, step: int, batch: int) -> bool:
        """Return whether to measure in this step and batch; without a weight every step is tried."""
        if not isinstance(self.rule, GradientShare):
            return False
        return self._measurements.is_due(self.rule.window(step), batch) or self.value is None or batch == self._batch

    def measured(self, ratio: float | None, batch: int) -> bool:
        """Set the weight by the ratio of the gradients for weight 1; None or 0: it tells nothing.

        Returns:
            Whether so many measurements told nothing that this is worth a warning.
        """
        assert isinstance(self.rule, GradientShare)
        if batch != self._batch:
            self._batch, self._before = batch, self.value
        if ratio is None or not 0 < ratio < math.inf:
            self._misses += 1
            return self.value is None and self._misses == _TRIES
        self.value = self.rule.weight(self._before, ratio)
        return False

    def __str__(self) -> str:
        """Return how a user gives it, with its value now."""
        if isinstance(self.rule, GradientShare):
            return f"weight=GradientShare({self.rule.share:g}), now {0.0 if self.value is None else self.value:.3g}"
        return f"weight={self.rule:g}"

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: nothing of a number."""
        return {"weight": {"value": self.value, "interval": self._measurements.last}} if self.measures else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; one of a training with a number as weight has nothing, and measuring begins."""
        kept = state.get("weight")
        if self.measures and kept is not None:
            self.value, self._measurements.last = kept["value"], kept["interval"]
