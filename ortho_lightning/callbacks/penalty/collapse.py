"""Watch for the one failure that an orthogonality penalty is known for: too large a weight ruins the network."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


class CollapseWatch:
    """Tell when filters fall together although they are penalized for it.

    A weight too large makes steps that overshoot: within a few steps the filters of whole layers turn the same way,
    and the penalty rises by an order of magnitude instead of falling. Both signs are asked for: the penalty's average
    since the last look above five times its smallest, and the cosines above three times theirs. (At weight 10 on a
    small CNN: 1.7 to 13, and 0.06 to 0.5, within ten steps.) Kept on the device; only :meth:`check` waits for it.
    """

    _PENALTY_RISE = 5.0
    _COSINE_RISE = 3.0

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._lowest_penalty = math.inf
        self._lowest_cosine = math.inf

    def update(self, penalty: Tensor) -> None:
        """Take one step's detached penalty in."""
        self._sum = penalty if self._sum is None else self._sum + penalty
        self._count += 1

    def check(self, rms_cosines: Sequence[float]) -> str | None:
        """Look at the steps since the last look and the cosines now: a warning, with a place for the weight."""
        if self._sum is None or not rms_cosines:
            return None
        rms_cosine = sum(rms_cosines) / len(rms_cosines)
        penalty = self._sum.item() / self._count
        self._sum, self._count = None, 0
        if not (math.isfinite(penalty) and math.isfinite(rms_cosine)):
            return None  # a training that diverged, for whatever reason
        self._lowest_penalty = min(self._lowest_penalty, penalty)
        self._lowest_cosine = min(self._lowest_cosine, rms_cosine)
        if penalty <= self._PENALTY_RISE * self._lowest_penalty:
            return None
        if rms_cosine <= self._COSINE_RISE * self._lowest_cosine:
            return None
        return (
            f"the filters fall together: the penalty rose from {self._lowest_penalty:.3g} to {penalty:.3g} and the "
            f"root mean square cosine from {self._lowest_cosine:.2g} to {rms_cosine:.2g}. The likely cause is "
            "{weight}: try a tenth of it, a warm-up (schedule=LinearWarmup()), or leave the first layer out."
        )
