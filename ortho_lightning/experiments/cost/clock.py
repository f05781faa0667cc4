"""Wall and processor time of every training step of a fit."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback

from ortho_lightning.experiments.common.clock import mark, seconds_between


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
        self._marks = [(mark(trainer), time.process_time())]

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        """End a step, and begin with the next."""
        self._marks.append((mark(trainer), time.process_time()))

    def times(self) -> list[Seconds]:
        """Return the time of each step."""
        return [
            Seconds(seconds_between(began, ended), after - before if isinstance(began, float) else None)
            for (began, before), (ended, after) in itertools.pairwise(self._marks)
        ]
