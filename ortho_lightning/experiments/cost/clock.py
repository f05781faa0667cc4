"""Wall and processor time of every training step of a fit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback


@dataclass(frozen=True)
class Seconds:
    """Time of a step.

    Attributes:
        wall: seconds on the clock; on a GPU between events.
        cpu: seconds of all threads of the process; None where the work is done elsewhere.
    """

    wall: float
    cpu: float | None


class StepTimes(Callback):
    """Times every training step, from the end of one batch to the end of the next.

    So nothing that a callback does in a step is left out. The last in the list of callbacks, it sees the end of all.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[Any, float]] = []

    def on_train_start(self, trainer: Any, *args: Any) -> None:
        """Begin with the first step."""
        self._marks = [self._mark(trainer)]

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """End a step, and begin with the next."""
        self._marks.append(self._mark(trainer))

    def times(self) -> list[Seconds]:
        """Return the time of each step."""
        return [self._between(*pair) for pair in zip(self._marks, self._marks[1:], strict=False)]

    @staticmethod
    def _mark(trainer: Any) -> tuple[Any, float]:
        if trainer.strategy.root_device.type != "cuda":
            return time.perf_counter(), time.process_time()
        event = torch.cuda.Event(enable_timing=True)  # nothing waits for it
        event.record()
        return event, 0.0

    @staticmethod
    def _between(began: tuple[Any, float], ended: tuple[Any, float]) -> Seconds:
        if isinstance(began[0], float):
            return Seconds(ended[0] - began[0], ended[1] - began[1])
        ended[0].synchronize()
        return Seconds(float(began[0].elapsed_time(ended[0])) / 1000, None)
