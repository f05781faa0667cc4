"""Comparisons: numbers that are 0 where the filters or outputs of a layer are not redundant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.covariance import check_correction
from ortho_lightning.functional.lsh import check_gamma
from ortho_lightning.layers.sampling import Sampling
from ortho_lightning.regularizers.probes import SampledProbe, make_probe
from ortho_lightning.regularizers.view import LayerView

Rows = Literal["filters", "inputs", "smaller"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Comparison(ABC):
    """Base class: a function of a layer; a :class:`~ortho_lightning.regularizers.Reduction` penalizes its values.

    Called with a :class:`~ortho_lightning.regularizers.LayerView`, it returns ``(groups, m, m)`` or more dimensions,
    with its graph, float32 or better. Entry ``[i, j]`` compares the i-th and the j-th of m things.
    """

    sampling: Sampling | None = None
    """How outputs are sampled; None: filters are compared."""
    diagonal: bool = False
    """Whether the diagonal counts; if not, the penalty leaves it out."""
    cosines: bool = False
    """Whether the values are cosines, or estimates of them, in [-1, 1]."""
    matrices: bool = True
    """Whether the values are square matrices and nothing more."""
    of_filters: bool = False
    """Whether entry [i, j] compares filters i and j, so that some of the filters give a part of the values."""

    @abstractmethod
    def __call__(self, layer: LayerView) -> Tensor:
        """Return the values of a layer."""


class InnerProducts(Comparison):
    r"""Inner products of the rows of the kernel, minus the target on the diagonal: :math:`W W^\top - s I`.

    Args:
        target: s, the squared length that every row is drawn to, 0 or more; None: the diagonal does not count, and
            lengths stay free.
        rows: "filters"; "inputs": the columns of the kernel, one for each input of a filter; "smaller": whichever are
            fewer, so that they can be orthogonal.
        parts: compare only within each of so many equal parts of the rows, such as the heads of an attention.

    Raises:
        ConfigurationError: for an argument outside its range; when called, for rows that cannot be divided so.
    """

    def __init__(self, target: float | None = 1.0, rows: Rows = "filters", parts: int = 1) -> None:
        if target is not None and not (isinstance(target, (int, float)) and 0 <= target < float("inf")):
            raise ConfigurationError(f"target={target!r}: must be 0 or a positive number, or None")
        _check_rows(rows, parts)
        self.target = target
        self.rows = rows
        self.parts = parts
        self.diagonal = target is not None
        self.of_filters = rows == "filters" and parts == 1

    def __repr__(self) -> str:
        return f"InnerProducts(target={self.target}, rows={self.rows!r}, parts={self.parts})"

    def __call__(self, layer: LayerView) -> Tensor:
        """Return ``(groups * parts, m, m)``."""
        return OF.gram_matrix(_rows_of(layer, self.rows, self.parts), self.target)


class Cosines(Comparison):
    """Cosines between the rows of the kernel, independent of their lengths.

    Args:
        rows: as of :class:`InnerProducts`.
        parts: likewise.

    Raises:
        ConfigurationError: likewise.
    """

    cosines = True

    def __init__(self, rows: Rows = "filters", parts: int = 1) -> None:
        _check_rows(rows, parts)
        self.rows = rows
        self.parts = parts
        self.of_filters = rows == "filters" and parts == 1

    def __repr__(self) -> str:
        return f"Cosines(rows={self.rows!r}, parts={self.parts})"

    def __call__(self, layer: LayerView) -> Tensor:
        """Return ``(groups * parts, m, m)``."""
        return OF.pairwise_cosines(_rows_of(layer, self.rows, self.parts))


class LSHSimilarity(Comparison):
    r"""The LSH estimate of the similarity of filters, :math:`1 - 2\theta/\pi`.

    See :class:`~ortho_lightning.regularizers.LSH`.

    Args:
        probe: "exact", "gaussian" or "inputs".
        gamma: slope of the smooth sign, above 0; not used by the exact probe.
        max_samples: samples of the other two; None: all, or 512 random directions.

    Raises:
        ConfigurationError: for an argument outside its range.
    """

    cosines = True
    of_filters = True

    def __init__(
        self,
        probe: Literal["inputs", "gaussian", "exact"] = "exact",
        gamma: float = 10.0,
        max_samples: int | None = 768,
    ) -> None:
        check_gamma(gamma)
        self._probe = make_probe(probe, max_samples, None, False)
        self.probe = probe
        self.gamma = gamma
        self.max_samples = max_samples
        self.sampling = self._probe.sampling

    def __repr__(self) -> str:
        return f"LSHSimilarity(probe={self.probe!r}, gamma={self.gamma}, max_samples={self.max_samples})"

    def __call__(self, layer: LayerView) -> Tensor:
        """Return ``(groups, k, k)``."""
        if isinstance(self._probe, SampledProbe):
            return OF.lsh_similarity(self._probe.outputs(layer), self.gamma)
        return OF.lsh_similarity_exact(layer.filters)


class SelfConvolution(Comparison):
    """Inner products of a convolution's filters at all shifts.

    See :func:`~ortho_lightning.functional.self_convolution`. Layers without shifts (linear layers, kernels of one
    element) and transposed convolutions are compared by the inner products of the fewer of filters and inputs, as in
    the authors' code.

    Args:
        padding: "layer": shifts up to the layer's padding, as in the authors' code; "full": all shifts.

    Raises:
        ConfigurationError: for another padding.
    """

    diagonal = True
    matrices = False

    def __init__(self, padding: Literal["layer", "full"] = "layer") -> None:
        if padding not in ("layer", "full"):
            raise ConfigurationError(f"padding={padding!r}: must be 'layer' or 'full'")
        self.padding = padding

    def __repr__(self) -> str:
        return f"SelfConvolution(padding={self.padding!r})"

    def __call__(self, layer: LayerView) -> Tensor:
        """Return ``(groups, k, k, *shifts)``, or ``(groups, m, m)`` for a layer without shifts."""
        module = layer.module
        if not isinstance(module, _CONVOLUTIONS) or all(width == 1 for width in module.kernel_size):
            return OF.gram_matrix(_rows_of(layer, "smaller", 1), 1.0)
        size = module.kernel_size
        kernel = layer.filters.unflatten(-1, (-1, *size))
        dilation = module.dilation
        extent = [(width - 1) * step for width, step in zip(size, dilation, strict=True)]
        padding: Sequence[int] = extent
        if self.padding == "layer" and module.padding == "same":
            padding = [width // 2 for width in extent]
        elif self.padding == "layer":
            padding = [0] * len(size) if isinstance(module.padding, str) else module.padding
        return OF.self_convolution(kernel, module.stride, padding, dilation)


class Covariance(Comparison):
    """Covariances of the outputs over the samples.

    Args:
        correction: 0 divides by the number of samples, 1 by one less.
        max_samples: samples of the batch and the map, 2 or more; None: all.

    Raises:
        ConfigurationError: for an argument outside its range.
    """

    of_filters = True

    def __init__(self, correction: int = 0, max_samples: int | None = 768) -> None:
        check_correction(correction)
        self.sampling = Sampling(max_samples)
        self.correction = correction
        self.max_samples = max_samples

    def __repr__(self) -> str:
        return f"Covariance(correction={self.correction}, max_samples={self.max_samples})"

    def __call__(self, layer: LayerView) -> Tensor:
        """Return ``(groups, k, k)``."""
        return OF.covariance(layer.outputs, self.correction)


class Correlation(Comparison):
    """Correlations of the outputs over the samples.

    Args:
        max_samples: as of :class:`Covariance`.

    Raises:
        ConfigurationError: for fewer than two samples.
    """

    cosines = True
    of_filters = True

    def __init__(self, max_samples: int | None = 768) -> None:
        self.sampling = Sampling(max_samples)
        self.max_samples = max_samples

    def __repr__(self) -> str:
        return f"Correlation(max_samples={self.max_samples})"

    def __call__(self, layer: LayerView) -> Tensor:
        """Return ``(groups, k, k)``."""
        return OF.correlation(layer.outputs)


def _check_rows(rows: str, parts: int) -> None:
    if rows not in ("filters", "inputs", "smaller"):
        raise ConfigurationError(f"rows={rows!r}: must be 'filters', 'inputs' or 'smaller'")
    if not isinstance(parts, int) or parts < 1:
        raise ConfigurationError(f"parts={parts!r}: must be an integer of 1 or more")


def _rows_of(layer: LayerView, rows: Rows, parts: int) -> Tensor:
    """Return the rows to compare, ``(groups * parts, m, numbers)``."""
    kernel = layer.filters
    k, d = kernel.shape[-2:]
    if rows == "inputs" or (rows == "smaller" and k > d):
        kernel = kernel.mT
    if parts == 1:
        return kernel
    if kernel.shape[-2] % parts:
        raise ConfigurationError(
            f"layer {layer.name!r}: parts={parts} does not divide its {kernel.shape[-2]} {rows}; leave the layer out"
        )
    return kernel.unflatten(-2, (parts, -1)).flatten(0, 1)
