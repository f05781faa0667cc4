"""Whitening as a scikit-learn transformer. Needs the extra "scikit-learn"."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ortho_lightning.nn import Whitening


class WhiteningTransformer(TransformerMixin, BaseEstimator):
    """Arrays in, arrays out: for pipelines, ``clone`` and grid searches.

    With beta = 1, gamma = 0 it is ``PCA``, with beta = gamma = 1 ``PCA(whiten=True)``, up to the signs of components;
    where scikit-learn divides by N - 1 this package divides by N.

    Args:
        n_components, beta, gamma: see :class:`~ortho_lightning.Whitening`.

    Attributes:
        whitening_: the fitted module.
        n_features_in_: d.

    Example:
        >>> x = np.array([[1.0, 5.0], [3.0, 5.0], [1.0, 9.0], [3.0, 9.0]])
        >>> WhiteningTransformer(n_components=1).fit_transform(x).ravel().tolist()
        [-1.0, -1.0, 1.0, 1.0]
    """

    def __init__(self, n_components: int | None = None, beta: float = 1.0, gamma: float = 1.0) -> None:
        self.n_components = n_components
        self.beta = beta
        self.gamma = gamma

    def fit(self, X: Any, y: Any = None) -> WhiteningTransformer:  # noqa: N803
        """Fit on ``X`` (N, d); ``y`` is there for the convention. Raises as :meth:`Whitening.fit`."""
        self.whitening_ = self._made(rows := self._checked(X, reset=True, least=2)).fit(rows)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> WhiteningTransformer:  # noqa: N803
        """Join ``X`` (N, d) to what was fitted on before, with the parameters of the first fit."""
        first = not hasattr(self, "whitening_")
        rows = self._checked(X, reset=first)
        if first:
            self.whitening_ = self._made(rows)
        self.whitening_.partial_fit(rows)
        return self

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """Whitened vectors ``(N, k)``, in the wider of the dtypes fitted on and of ``X``."""
        check_is_fitted(self, "whitening_")
        return self.whitening_(self._checked(X, reset=False)).numpy()

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803
        """See :meth:`Whitening.inverse`."""
        check_is_fitted(self, "whitening_")
        return self.whitening_.inverse(np.asarray(X)).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.whitening_.fitted_shape[1]

    def _made(self, rows: np.ndarray) -> Whitening:
        whitening = Whitening(self.n_components, self.beta, self.gamma)
        return whitening.double() if rows.dtype == np.float64 else whitening.to(torch.float32)

    def _checked(self, x: Any, reset: bool, least: int = 1) -> np.ndarray:
        return validate_data(self, x, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=least)
