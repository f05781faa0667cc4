"""The Gram penalty as a regularizer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.functional.gram import check_gram_arguments
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.view import LayerView


class Gram(Regularizer):
    """:func:`~ortho_lightning.functional.gram_penalty` on each layer's filters: |W^T W - I|^2.

    Args:
        off_diagonal: leave out the diagonal, so that the filters' norms stay free (BigGAN).
        norm: "fro" (Frobenius) or "spectral".

    Raises:
        ConfigurationError: for an unknown norm or an undefined combination.
    """

    def __init__(self, off_diagonal: bool = False, norm: Literal["fro", "spectral"] = "fro") -> None:
        check_gram_arguments(off_diagonal, norm)
        self.off_diagonal = off_diagonal
        self.norm = norm

    def __repr__(self) -> str:
        return f"Gram(off_diagonal={self.off_diagonal}, norm={self.norm!r})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, added over its groups."""
        return OF.gram_penalty(layer.filters, self.off_diagonal, self.norm)

    def floor(self, layer: LayerView) -> float | None:
        """Return k - d a group where there are more filters than dimensions; None for the other forms."""
        groups, k, d = layer.filters.shape
        return None if self.off_diagonal or self.norm == "spectral" else float(groups * max(k - d, 0))
