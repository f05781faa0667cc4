"""The penalty of AdaLoRA and KaSA as a regularizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.view import LayerView


class Orthonormal(Regularizer):
    """:func:`~ortho_lightning.functional.orthonormality_distance` on each layer's filters: ``|K K^T - I|_F``.

    Args:
        reduction: over the layers: "sum", as every penalty (KaSA, weight 0.001); "mean", which divides the penalty of
            each layer by the number of layers that ran in the step (AdaLoRA, weight 0.5).

    Raises:
        ConfigurationError: for an unknown reduction.
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum") -> None:
        if reduction not in ("sum", "mean"):
            raise ConfigurationError(f"reduction={reduction!r}: must be 'sum' or 'mean'")
        self.reduction = reduction

    def __repr__(self) -> str:
        return f"Orthonormal(reduction={self.reduction!r})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, added over its groups."""
        return OF.orthonormality_distance(layer.filters)

    def penalties(self, layers: Sequence[LayerView]) -> list[Tensor]:
        """Return the penalties of the layers of a step."""
        count = len({layer.name for layer in layers}) if self.reduction == "mean" else 1
        return [self.penalty(layer) / count for layer in layers]
