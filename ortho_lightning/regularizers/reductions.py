"""Reductions of the values of a comparison to one number, the penalty of a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.energy import check_energy_arguments
from ortho_lightning.functional.lsh import check_lsh_arguments
from ortho_lightning.random import number
from ortho_lightning.regularizers.comparisons import Comparison
from ortho_lightning.regularizers.view import LayerView

# Iterations from a random vector, after which it need not begin there again.
_FIRST_ITERATIONS = 30


class Reduction(ABC):
    """Base class: a function of a comparison's values.

    Called with values ``(groups, m, m, ...)``, whose diagonal is 0 where it does not count, whether it counts, and the
    layer that they are of; it returns a scalar.
    """

    cosines_only: bool = False
    """Whether the values must be cosines."""
    matrices_only: bool = False
    """Whether the values must be matrices and nothing more."""
    averages: bool = False
    """Whether it is a mean over pairs, so that it is the same on average for a random part of what is compared."""

    @abstractmethod
    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty, a scalar."""

    def check(self, comparison: Comparison) -> None:
        """Reject a comparison whose values it is not defined for.

        Raises:
            ConfigurationError: naming both.
        """
        if self.cosines_only and not comparison.cosines:
            raise ConfigurationError(f"{self!r} is defined for cosines, not for {comparison!r}: compare Cosines()")
        if self.matrices_only and not comparison.matrices:
            raise ConfigurationError(f"{self!r} is defined for matrices, not for {comparison!r}: use Squares()")


class MeanAndSquares(Reduction):
    """LSH's: the squared mean and the mean of the squares over pairs, or the sums; the diagonal does not count.

    Args:
        lambda1: weight of the squared mean, 0 or more.
        lambda2: weight of the squares, 0 or more.
        reduction: "mean" or "sum", as of :class:`~ortho_lightning.regularizers.LSH`.

    Raises:
        ConfigurationError: for an argument outside its range.
    """

    matrices_only = True

    def __init__(self, lambda1: float = 0.0, lambda2: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        check_lsh_arguments(lambda1, lambda2, reduction)
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.reduction: Literal["mean", "sum"] = reduction
        self.averages = reduction == "mean"

    def __repr__(self) -> str:
        return f"MeanAndSquares({self.lambda1}, {self.lambda2}, {self.reduction!r})"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        return OF.similarity_penalty(values, self.lambda1, self.lambda2, self.reduction)


class Squares(Reduction):
    """The sum of the squares, or their mean.

    Args:
        over: "sum"; "rows": divided by the number of rows (VICReg); "pairs": divided by the number of values that
            count, so that weights transfer between layers of different size. Groups are added, or averaged over pairs.

    Raises:
        ConfigurationError: for another choice.
    """

    def __init__(self, over: Literal["sum", "rows", "pairs"] = "sum") -> None:
        if over not in ("sum", "rows", "pairs"):
            raise ConfigurationError(f"over={over!r}: must be 'sum', 'rows' or 'pairs'")
        self.over = over
        self.averages = over == "pairs"

    def __repr__(self) -> str:
        return f"Squares({self.over!r})"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        m = values.shape[-1] if values.dim() == 3 else values.shape[1]
        total = values.square().sum()
        if self.over == "sum":
            return total
        if self.over == "rows":
            return total / max(m, 1)
        count = values.numel() if diagonal else values.numel() // max(m, 1) * (m - 1)
        return total / max(count, 1)


class Frobenius(Reduction):
    """The root of the sum of the squares; its gradient is 0 where the penalty is."""

    def __repr__(self) -> str:
        return "Frobenius()"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        return torch.linalg.vector_norm(values)


class Maximum(Reduction):
    """The largest absolute value, which has a gradient in one pair (or shared between equal ones)."""

    def __repr__(self) -> str:
        return "Maximum()"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        return values.abs().amax() if values.numel() else values.sum()


class SpectralNorm(Reduction):
    """The largest absolute eigenvalue of any group, by power iteration from the vector of the last step.

    The vector is kept in ``layer.memory``, which the callback saves in its checkpoints. The first is drawn from the
    layer's name, so that it is the same in all processes, and iterated 30 times.

    Args:
        iterations: in each step, 1 or more.

    Raises:
        ConfigurationError: for fewer.
    """

    matrices_only = True

    def __init__(self, iterations: int = 1) -> None:
        if not isinstance(iterations, int) or iterations < 1:
            raise ConfigurationError(f"iterations={iterations!r}: must be an integer of 1 or more")
        self.iterations = iterations

    def __repr__(self) -> str:
        return f"SpectralNorm(iterations={self.iterations})"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        if values.numel() == 0:
            return values.sum()
        vector, iterations = layer.memory.get("vector"), self.iterations
        if vector is None or vector.shape != values.shape[:-1]:
            generator = torch.Generator().manual_seed(number(layer.name))
            vector = torch.randn(values.shape[:-1], generator=generator).to(values.device)
            iterations = max(iterations, _FIRST_ITERATIONS)
        norms, layer.memory["vector"] = OF.spectral_norm(values, vector.to(values.device), iterations)
        return norms.amax()


class Energy(Reduction):
    """The hyperspherical energy of the pairs; see :func:`~ortho_lightning.functional.hyperspherical_energy`.

    Args:
        s: 0, 1 or 2.
        half_space: whether opposite filters repel each other as equal ones do.

    Raises:
        ConfigurationError: for another s.
    """

    cosines_only = True
    matrices_only = True
    averages = True

    def __init__(self, s: Literal[0, 1, 2] = 0, half_space: bool = False) -> None:
        check_energy_arguments(s, half_space)
        self.s: Literal[0, 1, 2] = s
        self.half_space = half_space

    def __repr__(self) -> str:
        return f"Energy(s={self.s}, half_space={self.half_space})"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        return OF.hyperspherical_energy(values, self.s, self.half_space)


class SoftCosines(Reduction):
    r"""OrthoReg's: :math:`\sum_{i \ne j} \log(1 + e^{\lambda (c_{ij} - 1)})`, which hardly penalizes negative cosines.

    Source: Rodriguez et al. 2017, "Regularizing CNNs with locally constrained decorrelations" (arXiv 1611.01967).

    Args:
        slope: lambda, above 0; cosines below about ``1 - 1 / slope`` hardly count.

    Raises:
        ConfigurationError: for a slope that is not a positive number.
    """

    cosines_only = True
    matrices_only = True

    def __init__(self, slope: float = 10.0) -> None:
        if not 0 < slope < float("inf"):
            raise ConfigurationError(f"slope={slope!r}: must be a positive number")
        self.slope = slope

    def __repr__(self) -> str:
        return f"SoftCosines(slope={self.slope})"

    def __call__(self, values: Tensor, diagonal: bool, layer: LayerView) -> Tensor:
        """Return the penalty."""
        return OF.off_diagonal(torch.nn.functional.softplus(self.slope * (values - 1))).sum()
