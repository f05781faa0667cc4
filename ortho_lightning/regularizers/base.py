"""Base class of the regularizers: a penalty on a layer's filters or on a sample of its outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.regularizers.view import LayerView


class Regularizer(ABC):
    """Base class of the penalties that :class:`~ortho_lightning.OrthogonalityCallback` adds, layer by layer.

    A regularizer of your own is a subclass with one method::

        from ortho_lightning import functional as OF

        class Coherence(Regularizer):
            def penalty(self, layer):
                cosines = OF.pairwise_cosines(layer.filters)
                return (cosines.triu(diagonal=1) ** 4).sum()

    It holds options only: the same object serves every layer and every step.
    """

    sampling: Sampling | None = None
    """How the layer's outputs are sampled for the penalty, or None where it uses the filters only."""

    max_filters: int | None = None
    """How many of a layer's filters the penalty sees in a step, others each time, or None for all.

    For a penalty that is a mean over pairs of filters, whose average stays the same. See ``check_max_filters``.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a subclass that defines a penalty of its own be asked for that penalty, layer by layer."""
        super().__init_subclass__(**options)
        if "penalty" in cls.__dict__ and "penalties" not in cls.__dict__:
            cls.penalties = Regularizer.penalties  # type: ignore[method-assign]

    @abstractmethod
    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, a differentiable scalar."""

    def penalties(self, layers: Sequence[LayerView]) -> list[Tensor]:
        """Return :meth:`penalty` of each of several layers; override it where they can share their work."""
        return [self.penalty(layer) for layer in layers]

    def floor(self, layer: LayerView) -> float | None:
        """Return the expected penalty of orthogonal filters, or None if it is not known."""
        return None

    def diagnostics(self, layer: LayerView) -> dict[str, Tensor]:
        """Return further scalars to log with the penalty; they are averaged over layers."""
        return {}

    def statistics(self, layer: LayerView) -> Tensor:
        """Return statistics of the outputs that add up over processes, ``(groups, k, k)``; for ``sync="global"``."""
        raise NotImplementedError

    def penalty_from_statistics(self, statistics: Tensor) -> Tensor:
        """Return the penalty of the joined batch from summed :meth:`statistics`; for ``sync="global"``."""
        raise NotImplementedError

    @property
    def has_statistics(self) -> bool:
        """Whether the penalty can be computed from statistics that add up over processes."""
        return type(self).statistics is not Regularizer.statistics


def check_max_filters(max_filters: int | None, averages: bool, what: str) -> None:
    """Reject a number of filters that tells no angle, and penalties whose average it would change.

    Args:
        max_filters: see :class:`Regularizer`.
        averages: whether the penalty is a mean over pairs of filters.
        what: names the penalty in the error.

    Raises:
        ConfigurationError: for fewer than two filters, or any number where the penalty is no such mean.
    """
    if max_filters is None:
        return
    if not isinstance(max_filters, int) or max_filters < 2:
        raise ConfigurationError(
            f"max_filters={max_filters!r}: one filter gives no angle; give 2 or more, or None for all"
        )
    if not averages:
        raise ConfigurationError(
            f"max_filters={max_filters} with {what}: some of the filters give another value than all, since it is no "
            "mean over pairs of filters; use None"
        )
