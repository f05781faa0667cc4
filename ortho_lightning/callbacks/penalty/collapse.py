"""Watch for the one failure that an orthogonality penalty is known for: too large a weight ruins the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

_KINDS = {"filter": ("filters", "cosine"), "response": ("filters' responses", "similarity")}
"""The words for what falls together and for its measure, by the kind of angle."""


class CollapseWatch:
    """Tell when filters, or what they say of their inputs, fall together although that is penalized.

    A weight too large makes steps that overshoot: within a few steps the filters of whole layers turn the same way,
    and the penalty rises by an order of magnitude instead of falling. Both signs are asked for: the penalty's average
    since the last look above five times its smallest, and the root mean square similarity of one kind above three times
    its smallest, or nearly 1. (At weight 10 on a small CNN: 1.7 to 13, and cosines 0.06 to 0.5, within ten steps.) Kept
    on the device; only :meth:`check` waits for it.
    """

    _PENALTY_RISE = 5.0
    _SIMILARITY_RISE = 3.0
    _SAME = 0.95

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0
        self._lowest_penalty = math.inf
        self._lowest: dict[str, float] = {}

    def update(self, penalty: Tensor) -> None:
        """Take one step's detached penalty in."""
        self._sum = penalty if self._sum is None else self._sum + penalty
        self._count += 1

    def check(self, similarities: Mapping[str, Sequence[float]]) -> str | None:
        """Look at the steps since the last look, and at the angles now.

        Args:
            similarities: the root mean square of each layer's cosines ("filter") and of the similarities of its
                responses ("response"); none where that kind was not measured.

        Returns:
            A warning with a place for the weight, or None.
        """
        means = {kind: sum(layers) / len(layers) for kind, layers in similarities.items() if layers}
        if self._sum is None or not means:
            return None
        penalty = self._sum.item() / self._count
        self._sum, self._count = None, 0
        if not all(map(math.isfinite, (penalty, *means.values()))):
            return None  # a training that diverged, for whatever reason
        self._lowest_penalty = min(self._lowest_penalty, penalty)
        for kind, mean in sorted(means.items(), key=lambda item: -item[1]):  # of both the worse is told
            lowest = self._lowest[kind] = min(self._lowest.get(kind, mean), mean)
            risen = lowest < mean > min(self._SIMILARITY_RISE * lowest, self._SAME)
            if risen and penalty > self._PENALTY_RISE * self._lowest_penalty:
                what, measure = _KINDS[kind]
                return (
                    f"the {what} fall together: the penalty rose from {self._lowest_penalty:.3g} to {penalty:.3g} and "
                    f"the root mean square {measure} from {lowest:.2g} to {mean:.2g}. The likely cause is {{weight}}: "
                    "try a tenth of it, a warm-up (schedule=LinearWarmup()), or leave the first layer out."
                )
        return None
