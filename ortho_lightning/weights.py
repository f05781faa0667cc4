"""Weights of the penalty that are set from measured gradients instead of a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ortho_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class GradientShare:
    """Hold the penalty's gradient at a share of the task's, on the weights of the selected layers.

    A number as weight means something else for every layer, loss and network; a share means the same everywhere. The
    ratio of the two norms is measured for weight 1 in the first step, after 1, 2, 4, ... steps while the interval is
    longer than that, and then at the interval; the weight is the share over the running geometric mean of what was
    measured. In a step that measures, the new weight is used at once.

    Args:
        share: of the norm of the task's gradient, above 0. A schedule multiplies it.
        every_n_steps: the interval in steps, 1 or more. A measurement takes two backward passes: at 200, with LSH, 0.8%
            of a training of 3,500 steps (docs/sweep.md).
        smoothing: of the mean, in [0, 1): how much of its logarithm a measurement keeps. 0: the last ratio alone. Of
            0, 0.25, 0.5 and 0.75 the default kept most steps near the share.
        max_change: the factor, above 1, by which the weight rises at most at a measurement. A weight that is more than
            so many times too large falls at once and without smoothing: orthogonal initial filters have a penalty
            without gradient, whose first ratio is far too small for the next step.

    Raises:
        ConfigurationError: for a value outside its range.

    Example::

        OrthogonalityCallback(LSH(), weight=GradientShare(0.1))
    """

    share: float = 0.1
    every_n_steps: int = 200
    smoothing: float = 0.25
    max_change: float = 4.0

    def __post_init__(self) -> None:
        if not (_is_number(self.share) and 0 < self.share < math.inf):
            raise ConfigurationError(f"share={self.share!r}: must be a positive number; 0.1 is a good start")
        if not isinstance(self.every_n_steps, int) or isinstance(self.every_n_steps, bool) or self.every_n_steps < 1:
            raise ConfigurationError(f"every_n_steps={self.every_n_steps!r}: must be an integer of 1 or more")
        if not (_is_number(self.smoothing) and 0 <= self.smoothing < 1):
            raise ConfigurationError(f"smoothing={self.smoothing!r}: must be 0 or more and below 1")
        if not (_is_number(self.max_change) and 1 < self.max_change < math.inf):
            raise ConfigurationError(f"max_change={self.max_change!r}: must be a number above 1")

    def window(self, step: int) -> int:
        """Return the first step of the interval that ``step`` is in; each interval has one measurement."""
        if step < self.every_n_steps:
            return 0 if step == 0 else 1 << (step.bit_length() - 1)
        return step - step % self.every_n_steps

    def weight(self, before: float | None, ratio: float) -> float:
        """Return the weight after a measurement.

        Args:
            before: the weight before it; None: this is the first.
            ratio: of the gradients' norms for weight 1, above 0.
        """
        wanted = math.log(self.share) - math.log(ratio)
        if before is None:
            return math.exp(wanted)
        error, bound = wanted - math.log(before), math.log(self.max_change)
        if error < -bound:
            return math.exp(wanted)
        return before * math.exp(min((1 - self.smoothing) * error, bound))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
