"""A penalty made of what is compared and how it is reduced."""

from __future__ import annotations

from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers.base import Regularizer, check_max_filters
from ortho_lightning.regularizers.comparisons import Comparison
from ortho_lightning.regularizers.reductions import Reduction
from ortho_lightning.regularizers.view import LayerView


class PairwisePenalty(Regularizer):
    """Penalty that combines a comparison with a reduction to one number.

    :class:`~ortho_lightning.regularizers.Gram` is ``PairwisePenalty(InnerProducts(), Squares())`` and
    :class:`~ortho_lightning.regularizers.LSH` is ``PairwisePenalty(LSHSimilarity("inputs"), MeanAndSquares())``, each
    with its gradient in closed form and further options. ``ortho_lightning.regularizers.recipes`` names others.

    Args:
        compare: what is compared.
        reduce: how.
        scale: factor of the penalty, above 0.
        max_filters: filters of a layer that are compared in a step, others each time; None: all. For a mean over pairs
            of filters.

    Raises:
        ConfigurationError: for two that do not fit each other, naming them, a scale that is not positive, or
            ``max_filters`` where the penalty is no mean over pairs of filters.

    Example:
        >>> import torch
        >>> from ortho_lightning.regularizers import Cosines, LayerView, Squares
        >>> penalty = PairwisePenalty(Cosines(), Squares("pairs"))
        >>> penalty.penalty(LayerView(filters=torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])))
        tensor(0.5000)
    """

    def __init__(
        self, compare: Comparison, reduce: Reduction, scale: float = 1.0, max_filters: int | None = None
    ) -> None:
        if not isinstance(compare, Comparison) or not isinstance(reduce, Reduction):
            raise ConfigurationError(
                f"compare={compare!r}, reduce={reduce!r}: must be a Comparison, such as Cosines(), and a Reduction, "
                "such as Squares()"
            )
        if not 0 < scale < float("inf"):
            raise ConfigurationError(f"scale={scale!r}: must be a positive number")
        reduce.check(compare)
        averages = compare.of_filters and not compare.diagonal and reduce.averages
        check_max_filters(max_filters, averages, f"{compare!r} and {reduce!r}")
        self.compare = compare
        self.reduce = reduce
        self.scale = scale
        self.max_filters = max_filters
        self.sampling = compare.sampling

    def __repr__(self) -> str:
        some = "" if self.max_filters is None else f", max_filters={self.max_filters}"
        return f"PairwisePenalty({self.compare!r}, {self.reduce!r}, scale={self.scale}{some})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer."""
        values = self.compare(layer)
        if not self.compare.diagonal:
            values = OF.off_diagonal(values)
        penalty = self.reduce(values, self.compare.diagonal, layer)
        return penalty if self.scale == 1 else self.scale * penalty
