"""Whitening as a scikit-learn transformer; needs the extra "scikit-learn"."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.hyperparameters import Shrinkage


class WhiteningTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A whitening of arrays for pipelines, ``clone`` and grid searches.

    With beta = 1 and gamma = 0 it equals ``PCA``, with beta = gamma = 1 ``PCA(whiten=True)``, up to the signs of
    components; scikit-learn divides by N - 1, this package by N.

    Args:
        n_components: see :class:`~ortho_lightning.Whitening`.
        beta: see :class:`~ortho_lightning.Whitening`.
        gamma: see :class:`~ortho_lightning.Whitening`.
        shrinkage: see :class:`~ortho_lightning.Whitening`.
        eps: see :class:`~ortho_lightning.Whitening`.

    Attributes:
        whitening_: the fitted module.
        n_features_in_: d.

    Example:
        >>> x = np.array([[1.0, 5.0], [3.0, 5.0], [1.0, 9.0], [3.0, 9.0]])
        >>> WhiteningTransformer(n_components=1).fit_transform(x).ravel().tolist()
        [-1.0, -1.0, 1.0, 1.0]
    """

    def __init__(
        self,
        n_components: int | None = None,
        beta: float = 1.0,
        gamma: float = 1.0,
        shrinkage: Shrinkage = 0.0,
        eps: float = 0.0,
    ) -> None:
        self.n_components = n_components
        self.beta = beta
        self.gamma = gamma
        self.shrinkage = shrinkage
        self.eps = eps

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> WhiteningTransformer:  # noqa: N803
        """Fit on ``X`` (N, d), weighted by ``sample_weight``; ``y`` is ignored.

        Raises as :meth:`~ortho_lightning.Whitening.fit` does.
        """
        samples = self._checked(X, reset=True, least=2)
        weights = _weights(sample_weight, samples)
        self.whitening_ = self._unfitted(samples).fit(samples, weights=weights)
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> WhiteningTransformer:  # noqa: N803
        """Add ``X`` (N, d) to the fitted samples, with the parameters of the first fit."""
        first = not hasattr(self, "whitening_")
        samples = self._checked(X, reset=first)
        if first:
            self.whitening_ = self._unfitted(samples)
        self.whitening_.partial_fit(samples, _weights(sample_weight, samples))
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return whitened samples ``(N, k)``, in the wider dtype of the fitted samples and ``X``."""
        check_is_fitted(self, "whitening_")
        return self.whitening_(self._checked(X, reset=False)).numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Return the samples before whitening; see :meth:`~ortho_lightning.Whitening.inverse`."""
        check_is_fitted(self, "whitening_")
        return self.whitening_.inverse(np.asarray(X)).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.whitening_.fitted_shape[1]

    def _unfitted(self, samples: np.ndarray) -> Whitening:
        whitening = Whitening(self.n_components, self.beta, self.gamma, self.shrinkage, self.eps)
        return whitening.double() if samples.dtype == np.float64 else whitening.to(torch.float32)

    def _checked(self, x: Any, reset: bool, least: int = 1) -> np.ndarray:
        return validate_data(self, x, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=least)


def _weights(sample_weight: Any, samples: np.ndarray) -> np.ndarray | None:
    if sample_weight is None:
        return None
    weights = np.asarray(sample_weight, dtype=np.float64)
    if not weights.any():
        raise ConfigurationError("every sample_weight is zero: give some samples a positive weight")
    return np.full(len(samples), weights) if weights.ndim == 0 else weights
