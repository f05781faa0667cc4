"""Checks of a grid of hyper-parameters."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.nn.hyperparameters import Hyperparameters


def checked_grid(
    betas: Sequence[float], gammas: Sequence[float], components: Sequence[int] | None, d: int
) -> tuple[int, ...]:
    """Return the values of k, all from 1 to d if None.

    Raises:
        ConfigurationError: for an empty axis or a value outside its range, naming it.
    """
    ks = tuple(range(1, d + 1)) if components is None else tuple(components)
    for name, values in (("betas", betas), ("gammas", gammas), ("components", ks)):
        if len(values) == 0:
            raise ConfigurationError(f"{name}={list(values)}: name at least one")
    for beta in betas:
        for gamma in gammas:
            Hyperparameters(None, beta, gamma)  # raises for a value outside its range
    wrong = [k for k in ks if not isinstance(k, Integral) or not 1 <= k <= d]
    if wrong:
        raise ConfigurationError(f"components={wrong}: must be integers from 1 to {d}")
    return tuple(int(k) for k in ks)
