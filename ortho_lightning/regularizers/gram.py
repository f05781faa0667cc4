"""The Gram penalty as a regularizer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.functional.gram import check_gram_arguments
from ortho_lightning.regularizers.base import Regularizer, check_max_filters
from ortho_lightning.regularizers.view import LayerView


class Gram(Regularizer):
    """:func:`~ortho_lightning.functional.gram_penalty` on each layer's filters: ``|W^T W - I|^2``.

    Args:
        off_diagonal: leave out the diagonal, so that the filters' norms stay free (BigGAN).
        norm: "fro" (Frobenius) or "spectral".
        max_filters: filters of a layer that are compared in a step, others each time, scaled so that the average is the
            penalty of all; the cost of a wide layer then stops growing with its width squared. None: all.

    Raises:
        ConfigurationError: for an unknown norm, an undefined combination, or fewer than two filters.
    """

    def __init__(
        self,
        off_diagonal: bool = False,
        norm: Literal["fro", "spectral"] = "fro",
        max_filters: int | None = None,
    ) -> None:
        check_gram_arguments(off_diagonal, norm)
        check_max_filters(max_filters, norm == "fro", f"norm={norm!r}")
        self.off_diagonal = off_diagonal
        self.norm = norm
        self.max_filters = max_filters

    def __repr__(self) -> str:
        return f"Gram(off_diagonal={self.off_diagonal}, norm={self.norm!r}, max_filters={self.max_filters})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, added over its groups."""
        total = None if self.max_filters is None else layer.total_filters
        return OF.gram_penalty(layer.filters, self.off_diagonal, self.norm, total)

    def floor(self, layer: LayerView) -> float | None:
        """Return k - d a group where there are more filters than dimensions; None for the other forms."""
        groups, _, d = layer.filters.shape
        k = layer.total_filters
        return None if self.off_diagonal or self.norm == "spectral" else float(groups * max(k - d, 0))
