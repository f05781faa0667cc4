"""Diversity of groups of filters as a regularizer: attention heads, experts of a router."""

from __future__ import annotations

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.view import LayerView


class Diversity(Regularizer):
    """:func:`~ortho_lightning.functional.group_similarity` between the groups of each layer's filters.

    Args:
        groups: number of groups that each layer's filters are divided into, in order, such as the heads of a query
            projection; None: those that the layer has (``layers="*:heads.q"``), and of a layer with a single one each
            filter is a group, such as the experts of a router.

    Raises:
        ConfigurationError: for fewer than two groups; in training for filters that do not divide into them.
    """

    def __init__(self, groups: int | None = None) -> None:
        if groups is not None and (not isinstance(groups, int) or groups < 2):
            raise ConfigurationError(f"groups={groups!r}: must be an integer of 2 or more, or None")
        self.groups = groups

    def __repr__(self) -> str:
        return f"Diversity(groups={self.groups})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer."""
        own, k, d = layer.filters.shape
        groups = self.groups or (own if own > 1 else k)
        if (own * k) % groups:
            raise ConfigurationError(
                f"groups={groups}: layer {layer.name!r} has {own * k} filters, which do not divide into so many"
            )
        return OF.group_similarity(layer.filters.reshape(groups, own * k // groups, d))
