"""Watch for a penalty that outweighs the task."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class OutweighingWatch:
    """Tell when the penalty is many times the loss of the task.

    Two signs are looked for: in one of the first two steps the penalty is 300 times the task's loss, or over
    eight steps or more it is ten times that loss in each. What even orthogonal filters would read is not counted, and
    the task's loss is that of the step or of the first step, whichever is larger: a task that has been learned has a
    small loss beside any penalty.

    The numbers are from a small CNN of three convolutions (SGD and Adam, LSH and Gram, 48 weights from 0.0001 to
    1,000,000). All runs that learned the task as well as without penalty were below ten times by the fourth step: the
    highest, Gram at weight 1, began at 18 and had 2.5 there. Of the runs that stayed at chance, some diverged within
    two steps, at more than 500 times. Not every weight that ruins a network shows in the losses: LSH at weight 3
    did it at half of the task's loss; the ratio of gradients and the watch for a collapse are for those.

    Values stay on the device; it is waited for in the first two steps and then at intervals that double up to ``every``
    steps.

    Args:
        every: the longest interval.
    """

    _AT_ONCE = 300.0
    _LASTING = 10.0
    _WINDOW = 8

    def __init__(self, every: int) -> None:
        self._longest = max(every, self._WINDOW)
        self._steps = 0
        self._begin = 0  # of the window
        self._length = self._WINDOW
        self._first: Tensor | None = None
        self._lowest: Tensor | None = None
        self._floor = 0.0

    def check(
        self, penalty: Tensor, loss: Tensor, factor: float, weight: float, floor: Callable[[], float]
    ) -> str | None:
        """Take one step in, and return a warning with a place for the weight, or None if there is nothing to say.

        Args:
            penalty: of all layers, before weight, without graph.
            loss: of the task.
            factor: of the penalty in the loss, on average over steps.
            weight: before the schedule.
            floor: returns what the penalty reads for orthogonal filters; asked in the first step.
        """
        task = loss.detach().float().abs().reshape(())
        if self._first is None:
            self._first = task
            self._floor = floor()
        scale = torch.maximum(task, self._first)
        ratio = torch.where(scale > 0, factor * (penalty.to(scale) - self._floor) / scale, 0.0)
        self._lowest = ratio if self._lowest is None else torch.minimum(self._lowest, ratio)
        self._steps += 1
        if self._steps <= 2 and float(ratio) >= self._AT_ONCE:  # False for NaN: a training that diverged
            return self._message(float(ratio), "in one step", factor * penalty, task, weight)
        if self._steps - self._begin < self._length:
            return None
        lowest, length = float(self._lowest), self._length
        self._begin, self._lowest = self._steps, None
        self._length = min(2 * length, self._longest)
        if not lowest >= self._LASTING:
            return None
        return self._message(lowest, f"or more in each of {length} steps", factor * penalty, task, weight)

    def _message(self, ratio: float, when: str, penalty: Tensor, task: Tensor, weight: float) -> str:
        return (
            f"the penalty outweighs the task: it is {ratio:.3g} times the task's loss {when} (now {float(penalty):.3g} "
            f"and {float(task):.3g}), at {{weight}}. Few networks learn their task like this. Try "
            f"a weight of {0.1 * weight / ratio:.1g}, which makes the penalty a tenth of the task's loss, or the one "
            "that suggest_weight(module, data) returns."
        )
