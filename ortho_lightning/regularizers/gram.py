"""The Gram penalty as a regularizer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.functional.gram import check_gram_arguments
from ortho_lightning.regularizers.base import Regularizer


class Gram(Regularizer):
    """:func:`~ortho_lightning.functional.gram_penalty` on each layer's filters: |W^T W - I|^2.

    Args:
        off_diagonal: leave out the diagonal, so that the filters' lengths stay free (BigGAN).
        norm: "fro" (Frobenius) or "spectral".

    Raises:
        ValueError: for an unknown norm or an undefined combination.
    """

    def __init__(self, off_diagonal: bool = False, norm: Literal["fro", "spectral"] = "fro") -> None:
        check_gram_arguments(off_diagonal, norm)
        self.off_diagonal = off_diagonal
        self.norm = norm

    def __repr__(self) -> str:
        return f"Gram(off_diagonal={self.off_diagonal}, norm={self.norm!r})"

    def penalty(self, values: Tensor, *, seed: int = 0) -> Tensor:
        if self.norm == "spectral":
            return OF.gram_penalty(values, norm="spectral")
        return OF.fast_gram_penalty(values, self.off_diagonal)

    def floor(self, values: Tensor) -> float | None:
        groups, k, d = values.shape
        return None if self.off_diagonal or self.norm == "spectral" else float(groups * max(k - d, 0))
