"""Times of training steps."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from pytorch_lightning import Callback


class StepClock(Callback):
    """Times the first training steps, from the moment a batch is there until its optimizer step is done.

    On a GPU it uses events, which make nothing wait.
    """

    _LEFT_OUT = 5  # first steps, which allocate memory and choose kernels
    _AT_MOST = 500

    def __init__(self) -> None:
        self._marks: list[tuple[Any, Any]] = []
        self._began: Any = None

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        """Start timing a step."""
        self._began = mark(trainer) if len(self._marks) < self._AT_MOST else None

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """Stop timing the step."""
        if self._began is not None:
            self._marks.append((self._began, mark(trainer)))

    def median_ms(self) -> float | None:
        """Return the median time of a step in milliseconds, or None if none was timed."""
        times = self.times()
        return 1000 * statistics.median(times) if times else None

    def times(self) -> list[float]:
        """Return the seconds of each step but the first ones; of all where there were no more."""
        return [seconds_between(*pair) for pair in self._marks[self._LEFT_OUT :] or self._marks]


def mark(trainer: Any) -> Any:
    """Return a mark of this moment: seconds, or on a GPU an event, for which nothing waits."""
    if trainer.strategy.root_device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def seconds_between(began: Any, ended: Any) -> float:
    """Return the seconds from one :func:`mark` to another."""
    if isinstance(began, float):
        return float(ended - began)
    ended.synchronize()
    return float(began.elapsed_time(ended)) / 1000
