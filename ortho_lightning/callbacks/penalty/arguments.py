"""Checks of what a penalty is configured with."""

from __future__ import annotations

import math
from typing import Any

from ortho_lightning.callbacks.monitoring.arguments import check_interval, check_name
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.selection import check_selection
from ortho_lightning.regularizers import Regularizer, Sampling
from ortho_lightning.weights import GradientShare


def check(callback: Any) -> None:
    """Check the attributes of an :class:`~ortho_lightning.OrthogonalityCallback`.

    Raises:
        ConfigurationError: naming the first that is outside its range.
    """
    check_regularizer(callback.regularizer)
    check_selection("layers", callback.layers)
    check_selection("exclude", callback.exclude)
    check_weight(callback.weight)
    check_schedule(callback.schedule)
    check_interval("every_n_steps", callback.every_n_steps, never=False)
    check_interval("log_every_n_steps", callback.log_every_n_steps)
    check_interval("log_gradient_ratio_every_n_steps", callback.log_gradient_ratio_every_n_steps)
    check_sync(callback.sync, callback.regularizer)
    check_apply(callback)
    check_name(callback.name)


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
    """Raise ConfigurationError unless it is a finite number of 0 or more, or a GradientShare."""
    if isinstance(weight, GradientShare):
        return
    number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
    if not number or not (weight >= 0 and math.isfinite(weight)):
        raise ConfigurationError(f"weight={weight!r}: must be 0, a positive number or GradientShare(0.1)")


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


def check_apply(callback: Any) -> None:
    """Raise ConfigurationError for an unknown choice, or what cannot be applied beside the loss."""
    if callback.apply not in ("loss", "decoupled"):
        raise ConfigurationError(f"apply={callback.apply!r}: must be 'loss' or 'decoupled'")
    if callback.apply == "loss" or callback.regularizer is None:
        return
    if callback.regularizer.sampling is not None:
        raise ConfigurationError(
            f"apply='decoupled' with {callback.regularizer!r}: after the optimizer's step there are no outputs to "
            "penalize; use a penalty on filters, such as Gram() or LSH(probe='exact'), or apply='loss'"
        )
    if isinstance(callback.weight, GradientShare) or callback.log_gradient_ratio_every_n_steps is not None:
        raise ConfigurationError(
            "apply='decoupled' with weight=GradientShare(...) or log_gradient_ratio_every_n_steps: the penalty's "
            "gradient does not pass through the optimizer, so its share of the task's gradient is not its "
            "share of a step; give a number as weight, or apply='loss'"
        )


def schedule_factor(schedule: Any, step: int, total_steps: float) -> float:
    """Return the factor of the weight at a step; 1 without a schedule.

    Raises:
        ConfigurationError: for a factor that is negative or not finite.
    """
    factor = 1.0 if schedule is None else float(schedule(step, total_steps))
    if not (factor >= 0 and math.isfinite(factor)):
        raise ConfigurationError(
            f"schedule={schedule!r} gave {factor} at step {step} of {total_steps}: "
            "a factor must be 0 or a positive number"
        )
    return factor
