"""Whitening with beta, gamma and k as a module."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.nn.hyperparameters import Hyperparameters, Shrinkage
from ortho_lightning.nn.storage import WhiteningBuffers, not_fitted
from ortho_lightning.nn.vectors import Vectors, as_tensor, moments_of


class Whitening(WhiteningBuffers):
    r"""Centre, rotate and rescale vectors, first k components: :math:`(x - \beta\mu) U \Lambda^{-\gamma/2}`.

    :math:`U \Lambda U^\top` is the eigendecomposition of :math:`\frac{1}{N}\sum (x-\beta\mu)^\top(x-\beta\mu)`,
    eigenvalues from large to small. Small eigenvalues are estimated worst, and gamma > 0 amplifies their directions
    most: ``shrinkage`` and ``eps`` limit that. Components beyond the rank get scale 0 when gamma > 0; the width stays
    k. Formula: J. Su, article 9079 (kexue.fm).

    The moments of the fitted vectors stay in the module (and in its ``state_dict``), so that :meth:`refit` needs no
    data. Casts of the module leave them in float64. The transform is in the module's dtype, float32 or better: call
    ``.double()`` before ``fit`` for float64.

    Args:
        n_components: k, 1 or more; None: all d.
        beta: share of the mean that is subtracted; 1 centres, 0 does not.
        gamma: 0 or more; 1 gives components of variance 1, 0 keeps their variances.
        shrinkage: share of the mean variance that replaces the covariance, from 0 to 1; "ledoit-wolf": the share of
            smallest expected error, see :func:`~ortho_lightning.functional.ledoit_wolf`.
        eps: 0 or more; added to every eigenvalue, in squared units of the vectors.

    Raises:
        ConfigurationError: for an argument outside its range.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [1.0, 9.0], [3.0, 9.0]])
        >>> whitening = Whitening().fit(x)
        >>> whitening(x)
        tensor([[-1., -1.],
                [-1.,  1.],
                [ 1., -1.],
                [ 1.,  1.]])
        >>> whitening.refit(n_components=1, gamma=0.0)(x).flatten()
        tensor([-2., -2.,  2.,  2.])
    """

    def __init__(
        self,
        n_components: int | None = None,
        beta: float = 1.0,
        gamma: float = 1.0,
        shrinkage: Shrinkage = 0.0,
        eps: float = 0.0,
    ) -> None:
        super().__init__(Hyperparameters(n_components, beta, gamma, shrinkage, eps))

    @classmethod
    def from_moments(
        cls,
        moments: OF.Moments,
        n_components: int | None = None,
        beta: float = 1.0,
        gamma: float = 1.0,
        dtype: torch.dtype = torch.float32,
        shrinkage: Shrinkage = 0.0,
        eps: float = 0.0,
    ) -> Whitening:
        """Return a whitening fitted on the vectors with these moments; ``dtype`` is that of its transform."""
        module = cls(n_components, beta, gamma, shrinkage, eps).to(dtype)
        module._fit_to(moments)
        return module

    # ---------------------------------------------------------------------------------------------------------- fit

    def fit(
        self,
        x: Vectors,
        progress: bool = False,
        weights: Tensor | np.ndarray | None = None,
        accumulation: torch.dtype = torch.float64,
    ) -> Whitening:
        """Fit on ``x`` alone; earlier fits are forgotten.

        Args:
            x: ``(N, d)`` tensor, array or memory map, or an iterable of such batches; any floating point. One pass;
                no copy of its size is made. The computation runs on the device of the vectors.
            progress: show a bar with the number of vectors read so far.
            weights: ``(N,)``, 0 or more, of all the vectors in their order, such as word frequencies; a weight of 2
                counts as the vector twice. None: 1 each.
            accumulation: dtype of the products, torch.float64 or torch.float32. float32 takes about 60% of the time;
                eigenvalues below ``d * 1.2e-7`` times the largest then count as 0.

        Returns:
            The module itself.

        Raises:
            ConfigurationError: for fewer than two vectors, fewer columns than ``n_components``, or NaN or infinity,
                naming the vector; for another number of weights than vectors, or a wrong one, naming it. The module
                stays as it was.
            TypeError: for numbers that are not floating point.
        """
        check_width = self.hyperparameters.check_width
        moments = moments_of(x, progress, check_width=check_width, weights=weights, accumulation=accumulation)
        self._fit_to(moments)
        self._warn_of_null_components()
        return self

    def partial_fit(self, batch: Vectors, weights: Tensor | np.ndarray | None = None) -> Whitening:
        """Add more vectors to the fitted ones; the transform is recomputed when it is next used.

        The order of the batches does not matter, up to rounding.

        Args:
            batch: as for :meth:`fit`. A single vector is accepted; the second is needed when the transform is.
            weights: as for :meth:`fit`, of this batch.

        Returns:
            The module itself.

        Raises:
            ConfigurationError: as :meth:`fit`, and for vectors of another size. The module stays as it was.
            TypeError: as :meth:`fit`.
        """
        known = self.moments
        check_width = self.hyperparameters.check_width
        joined = moments_of(batch, first=known.count, check_width=check_width, weights=weights)
        if known.count:
            joined = known.merge(joined.to(known.mean.device))
        check_width(joined.d)
        self._set_moments(joined)
        self._stale = True
        return self

    def refit(
        self,
        *,
        beta: float | Literal["keep"] = "keep",
        gamma: float | Literal["keep"] = "keep",
        n_components: int | Literal["keep"] | None = "keep",
        shrinkage: Shrinkage | Literal["keep"] = "keep",
        eps: float | Literal["keep"] = "keep",
    ) -> Whitening:
        """Change hyper-parameters without data, from the moments alone.

        Args:
            beta: as for the class; "keep": unchanged.
            gamma: as for the class; "keep": unchanged.
            n_components: as for the class; "keep": unchanged.
            shrinkage: as for the class; "keep": unchanged.
            eps: as for the class; "keep": unchanged.

        Returns:
            The module itself.

        Raises:
            NotFittedError: before a fit.
            ConfigurationError: for an argument outside its range, or fewer than two vectors. The module stays as it
                was.
        """
        given: dict[str, Any] = {
            "beta": beta,
            "gamma": gamma,
            "n_components": n_components,
            "shrinkage": shrinkage,
            "eps": eps,
        }
        before = self.hyperparameters
        chosen = replace(before, **{name: value for name, value in given.items() if value != "keep"})
        moments = self._fitted_moments()
        chosen.check_width(moments.d)
        self._set_hyperparameters(chosen)
        try:
            self._fit_to(moments)
        except Exception:
            self._set_hyperparameters(before)
            raise
        self._warn_of_null_components()
        return self

    def _fit_to(self, moments: OF.Moments) -> None:
        chosen = self.hyperparameters
        chosen.check_width(moments.d)
        shrinkage = chosen.resolved_shrinkage(moments)
        eigenvalues, axes = OF.principal_axes(moments, chosen.beta, shrinkage, chosen.eps)
        scales = OF.whitening_scales(eigenvalues, chosen.gamma, moments.precision)
        k = chosen.n_components or moments.d
        inverse_scales = torch.where(scales > 0, 1 / torch.where(scales > 0, scales, 1.0), 0.0)
        transform = {
            "shift": chosen.beta * moments.mean,
            "projection": (axes * scales)[:, :k],
            "back_projection": (axes * inverse_scales)[:, :k].mT,
        }
        dtype = self.projection.dtype
        if not all(values.to(dtype).isfinite().all() for values in transform.values()):
            raise ConfigurationError(
                f"beta={chosen.beta}, gamma={chosen.gamma}: the transform of these vectors overflows {dtype}; take a "
                "smaller gamma, rescale the vectors, or call .double() before fit"
            )
        self._set_moments(moments)
        self._set_transform(eigenvalues, transform)
        self._stale = False

    def _warn_of_null_components(self) -> None:
        width = self.projection.shape[1]
        if self.gamma > 0 and self.rank < width:
            warnings.warn(
                f"the vectors span {self.rank} of {len(self.mean)} dimensions, so {width - self.rank} of {width} "
                f"components are 0; n_components={max(self.rank, 1)} leaves them out",
                stacklevel=3,
            )

    # -------------------------------------------------------------------------------------------------- fitted values

    @property
    def fitted_shape(self) -> tuple[int, int]:
        """The sizes d and k of a vector before and after."""
        self._ready()
        d, k = self.projection.shape
        return d, k

    @property
    def spectrum(self) -> Tensor:
        r"""All d eigenvalues of :math:`\Sigma(\beta)`, from large to small; float64."""
        self._ready()
        return self.eigenvalues

    @property
    def explained_variance_ratio(self) -> Tensor:
        """Share of each kept component in the sum of all eigenvalues, ``(k,)``; zeros for data without variance."""
        spectrum = self.spectrum
        total = spectrum.sum()
        return spectrum[: self.projection.shape[1]] / torch.where(total > 0, total, 1.0)

    @property
    def rank(self) -> int:
        """Number of components with variance; see :func:`~ortho_lightning.functional.numerical_rank`."""
        return OF.numerical_rank(self.spectrum, self.moments.precision)

    @property
    def effective_rank(self) -> float:
        """Effective number of directions; see :func:`~ortho_lightning.functional.effective_rank`."""
        return OF.effective_rank(self.spectrum)

    # ---------------------------------------------------------------------------------------------------- the transform

    def forward(self, x: Any) -> Tensor:
        """Whiten vectors; the result is float32 or better, also under autocast.

        Args:
            x: ``(..., d)``, a tensor or an array.

        Returns:
            ``(..., k)``.

        Raises:
            NotFittedError: before a fit.
            ConfigurationError: for vectors of another size.
        """
        self._ready()
        x = as_tensor(x, self.projection.device)
        if x.shape[-1] != self.projection.shape[0]:
            d = self.projection.shape[0]
            raise ConfigurationError(f"vectors of {x.shape[-1]} numbers: fitted on vectors of {d}")
        x, shift, projection = _promoted(x, self.shift, self.projection)
        return _without_autocast(lambda: (x - shift) @ projection, x)

    def inverse(self, y: Any) -> Tensor:
        """Return the vectors that were whitened: exact for k = d = rank, else those nearest to beta mu.

        They are beta mu plus the pseudo-inverse of the projection, the solution of smallest norm.

        Args:
            y: ``(..., k)``, a tensor or an array.

        Returns:
            ``(..., d)``.

        Raises:
            NotFittedError: before a fit.
            ConfigurationError: for vectors of another size.
        """
        self._ready()
        y = as_tensor(y, self.projection.device)
        if y.shape[-1] != self.back_projection.shape[0]:
            width = self.back_projection.shape[0]
            raise ConfigurationError(f"vectors of {y.shape[-1]} numbers: the whitening gives {width}")
        y, shift, back = _promoted(y, self.shift, self.back_projection)
        return _without_autocast(lambda: y @ back + shift, y)

    def _update(self) -> None:
        self._fit_to(self._fitted_moments())

    def _fitted_moments(self) -> OF.Moments:
        moments = self.moments
        if moments.count == 0:
            raise not_fitted()
        return moments


def _promoted(x: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
    dtype = torch.promote_types(x.dtype, buffers[0].dtype)
    return x.to(dtype), *(buffer.to(dtype) for buffer in buffers)


def _without_autocast(compute: Callable[[], Tensor], x: Tensor) -> Tensor:
    # autocast would compute the product in bfloat16
    if not torch.is_autocast_enabled(x.device.type):
        return compute()
    with torch.autocast(x.device.type, enabled=False):
        return compute()
