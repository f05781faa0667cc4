"""Watching for the one failure that an orthogonality penalty is known for: too large a weight ruins the network."""

from __future__ import annotations

from torch import Tensor


class CollapseWatch:
    """Tells when the smoothed penalty has risen to ten times its smallest smoothed value.

    A weight too large makes steps that overshoot: filters fall together and the penalty rises, instead of falling, by
    an order of magnitude. Kept on the device; only :meth:`check` waits for it.
    """

    _MEMORY = 0.9  # of the exponential average, whose first values are left out as not yet smooth
    _SETTLING = 10
    _RISE = 10.0

    def __init__(self) -> None:
        self._average: Tensor | None = None
        self._lowest: Tensor | None = None
        self._updates = 0

    def update(self, penalty: Tensor) -> None:
        """Take one step's detached penalty in."""
        self._updates += 1
        average = penalty if self._average is None else self._average.lerp(penalty, 1 - self._MEMORY)
        self._average = average
        if self._updates >= self._SETTLING:
            self._lowest = average if self._lowest is None else self._lowest.minimum(average)

    def check(self) -> str | None:
        """A warning, with a place for the weight, or None."""
        if self._average is None or self._lowest is None:
            return None
        average, lowest = self._average.item(), self._lowest.item()
        if average <= self._RISE * lowest:
            return None
        return (
            f"the penalty rose from {lowest:.3g} to {average:.3g}, as it does when filters fall together. The likely "
            "cause is weight={weight:g}: try a tenth of it, a warm-up (schedule=LinearWarmup()), or leave the first "
            "layer out."
        )
