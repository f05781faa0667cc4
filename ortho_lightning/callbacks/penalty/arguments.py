"""Checks of what a penalty is configured with."""

from __future__ import annotations

import math
from typing import Any

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import Regularizer, Sampling


def check_regularizer(regularizer: Any) -> None:
    """Raise ConfigurationError unless it is a regularizer or None."""
    if regularizer is not None and not isinstance(regularizer, Regularizer):
        raise ConfigurationError(
            f"regularizer={regularizer!r}: must be an instance of a Regularizer, such as LSH(), or None"
        )
    sampling = getattr(regularizer, "sampling", None)
    if sampling is not None and not isinstance(sampling, Sampling):
        kind = type(regularizer).__name__
        raise ConfigurationError(f"{kind}.sampling={sampling!r}: must be Sampling(...), or None for the filters only")


def check_weight(weight: Any) -> None:
    """Raise ConfigurationError unless it is a finite number of 0 or more."""
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not (weight >= 0 and math.isfinite(weight)):
        raise ConfigurationError(f"weight={weight!r}: must be 0 or a positive number")


def check_schedule(schedule: Any) -> None:
    """Raise ConfigurationError unless it is callable or None."""
    if schedule is not None and not callable(schedule):
        raise ConfigurationError(f"schedule={schedule!r}: must be callable as (step, total_steps) -> factor")


def check_sync(sync: Any, regularizer: Regularizer | None) -> None:
    """Raise ConfigurationError for an unknown choice, or one that the regularizer cannot follow."""
    if sync not in ("local", "global"):
        raise ConfigurationError(f"sync={sync!r}: must be 'local' or 'global'")
    on_outputs = regularizer is not None and regularizer.sampling is not None
    if sync == "global" and regularizer is not None and on_outputs and not regularizer.has_statistics:
        raise ConfigurationError(
            f"sync='global': {regularizer!r} has no statistics that add up over processes; use sync='local'"
            " (for LSH: or normalize=None)"
        )


def current_weight(weight: float, schedule: Any, step: int, total_steps: float) -> float:
    """Return the weight at a step, times the schedule's factor.

    Raises:
        ConfigurationError: for a factor that is negative or not finite.
    """
    factor = 1.0 if schedule is None else float(schedule(step, total_steps))
    if not (factor >= 0 and math.isfinite(factor)):
        raise ConfigurationError(
            f"schedule={schedule!r} gave {factor} at step {step} of {total_steps}: "
            "a factor must be 0 or a positive number"
        )
    return weight * factor
