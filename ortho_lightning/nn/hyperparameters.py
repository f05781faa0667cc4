"""The hyper-parameters of a whitening, checked once."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional import Moments, ledoit_wolf

Shrinkage: TypeAlias = 'float | Literal["ledoit-wolf"]'
LEDOIT_WOLF: Literal["ledoit-wolf"] = "ledoit-wolf"


@dataclass(frozen=True)
class Hyperparameters:
    """Hyper-parameters of a whitening.

    Args:
        n_components: k, 1 or more; None: all d.
        beta: share of the mean that is subtracted; 1 centres, 0 does not.
        gamma: 0 or more; 1 gives components of variance 1, 0 keeps their variances.
        shrinkage: share of the mean variance that replaces the covariance, from 0 to 1; "ledoit-wolf": estimated from
            the vectors.
        eps: 0 or more; added to every eigenvalue.

    Raises:
        ConfigurationError: for a value outside its range, naming it.
    """

    n_components: int | None = None
    beta: float = 1.0
    gamma: float = 1.0
    shrinkage: Shrinkage = 0.0
    eps: float = 0.0

    def __post_init__(self) -> None:
        k = self.n_components
        if k is not None and (not isinstance(k, numbers.Integral) or isinstance(k, bool) or k < 1):
            raise ConfigurationError(f"n_components={k!r}: must be an integer of 1 or more, or None for all")
        if not _is_finite(self.beta):
            raise ConfigurationError(f"beta={self.beta!r}: must be a number; 1 subtracts the mean, 0 does not")
        if not _is_finite(self.gamma) or self.gamma < 0:
            raise ConfigurationError(f"gamma={self.gamma!r}: must be 0 or a positive number")
        if self.shrinkage != LEDOIT_WOLF and not (_is_finite(self.shrinkage) and 0 <= self.shrinkage <= 1):
            raise ConfigurationError(f"shrinkage={self.shrinkage!r}: must be a number from 0 to 1, or {LEDOIT_WOLF!r}")
        if not _is_finite(self.eps) or self.eps < 0:
            raise ConfigurationError(f"eps={self.eps!r}: must be 0 or a positive number")

    def resolved_shrinkage(self, moments: Moments) -> float:
        """Return the shrinkage as a number, estimated from ``moments`` if asked for.

        Raises:
            ConfigurationError: as :func:`~ortho_lightning.functional.ledoit_wolf`.
        """
        return ledoit_wolf(moments) if isinstance(self.shrinkage, str) else float(self.shrinkage)

    def check_width(self, d: int) -> None:
        """Reject vectors of ``d`` numbers if k is larger.

        Raises:
            ConfigurationError: if ``n_components`` is larger than ``d``.
        """
        if self.n_components is not None and self.n_components > d:
            raise ConfigurationError(
                f"n_components={self.n_components}: the vectors have {d} numbers; give as many or fewer"
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
