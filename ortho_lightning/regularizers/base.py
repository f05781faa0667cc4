"""What a regularizer is: a penalty on a layer's outputs or on its filters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor


class Regularizer(ABC):
    """Base class of the penalties that :class:`~ortho_lightning.OrthogonalityCallback` adds, layer by layer.

    A regularizer of your own is a subclass with one method::

        from ortho_lightning import functional as OF

        class Coherence(Regularizer):
            def penalty(self, values, *, seed=0):
                cosines = OF.pairwise_cosines(values)
                return (cosines.triu(diagonal=1) ** 4).sum()

    It holds settings only: the same object serves every layer and every step.
    """

    observes: Literal["outputs", "kernel"] = "kernel"
    """What ``penalty`` gets: the layer's filters ``(groups, k, d)``, or its outputs without bias ``(groups, n, k)``."""

    max_samples: int | None = None
    """Rows of the outputs that ``penalty`` gets at most; None: all."""

    detach_inputs: bool = False
    """Whether the gradient of a penalty on outputs stops at the filters, not reaching the layers below."""

    @abstractmethod
    def penalty(self, values: Tensor, *, seed: int = 0) -> Tensor:
        """A differentiable scalar. ``seed`` differs between layers and steps, for penalties that draw numbers."""

    def penalties(self, values: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
        """:meth:`penalty` of each of several values with its seed; to be overridden where they can share their work."""
        return [self.penalty(each, seed=seed) for each, seed in zip(values, seeds, strict=True)]

    def floor(self, values: Tensor) -> float | None:
        """What the penalty reads for orthogonal filters, given these values; None if that is not known."""
        return None

    def diagnostics(self, values: Tensor) -> dict[str, Tensor]:
        """Further scalars to log beside the penalty, averaged over layers."""
        return {}

    def statistics(self, values: Tensor) -> Tensor:
        """Statistics of the outputs that add up over processes, ``(groups, k, k)``; needed for ``sync="global"``."""
        raise NotImplementedError

    def penalty_from_statistics(self, statistics: Tensor) -> Tensor:
        """The penalty of the joined batch from added-up ``statistics``; needed for ``sync="global"``."""
        raise NotImplementedError

    @property
    def has_statistics(self) -> bool:
        """Whether the penalty on outputs can be found from statistics that add up over processes."""
        return type(self).statistics is not Regularizer.statistics
