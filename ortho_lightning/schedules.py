"""Schedules of the penalty's weight: functions ``(step, total_steps) -> factor``.

Any callable of that kind is a schedule. Steps are optimizer steps, counted from 0. These are pure functions; multiply
two to combine them::

    schedule = LinearWarmup(fraction=0.1) * CosineDecay()
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ortho_lightning.errors import ConfigurationError


class Schedule:
    """Base class: a callable ``(step, total_steps) -> factor`` that can be multiplied with another."""

    def __call__(self, step: int, total_steps: float) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        raise NotImplementedError

    def __mul__(self, other: Schedule) -> Schedule:
        return Product([self, other])


class Product(Schedule):
    """The product of schedules."""

    def __init__(self, factors: Sequence[Schedule]) -> None:
        self.factors = list(factors)

    def __repr__(self) -> str:
        return " * ".join(map(repr, self.factors))

    def __call__(self, step: int, total_steps: float) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        return math.prod(factor(step, total_steps) for factor in self.factors)


class LinearWarmup(Schedule):
    """A rise from 0 at the first step to 1 after ``fraction`` of all steps, or after ``steps`` steps; then 1.

    Args:
        fraction: share of the training in (0, 1]; needs a training of known length.
        steps: number of steps, above 0, instead of a fraction.

    Raises:
        ConfigurationError: for values outside these ranges, or both given.
    """

    def __init__(self, fraction: float | None = None, steps: int | None = None) -> None:
        if fraction is not None and steps is not None:
            raise ConfigurationError(f"fraction={fraction} and steps={steps}: give one of the two")
        if fraction is None and steps is None:
            fraction = 1 / 3
        if fraction is not None and not 0 < fraction <= 1:
            raise ConfigurationError(f"fraction={fraction}: must be above 0 and at most 1")
        if steps is not None and steps < 1:
            raise ConfigurationError(f"steps={steps}: must be 1 or more")
        self.fraction = fraction
        self.steps = steps

    def __repr__(self) -> str:
        return f"LinearWarmup(fraction={self.fraction}, steps={self.steps})"

    def __call__(self, step: int, total_steps: float) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        assert self.fraction is not None
        return min(1.0, step / (self.fraction * _known(total_steps, self)))


class CosineDecay(Schedule):
    """A fall from 1 at the first step to ``final`` at the last along half a cosine.

    Args:
        final: factor at the end, 0 or more.

    Raises:
        ConfigurationError: for a negative or infinite factor.
    """

    def __init__(self, final: float = 0.0) -> None:
        if not 0 <= final < math.inf:
            raise ConfigurationError(f"final={final}: must be 0 or a positive number")
        self.final = final

    def __repr__(self) -> str:
        return f"CosineDecay(final={self.final})"

    def __call__(self, step: int, total_steps: float) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        progress = min(1.0, step / _known(total_steps, self))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class MultiStep(Schedule):
    """A factor that is multiplied by ``factor`` at each milestone; milestones are shares of the training.

    Args:
        milestones: shares in [0, 1].
        factor: 0 or more.

    Raises:
        ConfigurationError: for no milestone, one outside [0, 1], or a negative or infinite factor.
    """

    def __init__(self, milestones: Sequence[float], factor: float = 0.1) -> None:
        milestones = list(milestones)
        if not milestones or any(not 0 <= milestone <= 1 for milestone in milestones):
            raise ConfigurationError(f"milestones={milestones}: give shares of the training between 0 and 1")
        if not 0 <= factor < math.inf:
            raise ConfigurationError(f"factor={factor}: must be 0 or a positive number")
        self.milestones = milestones
        self.factor = factor

    def __repr__(self) -> str:
        return f"MultiStep(milestones={self.milestones}, factor={self.factor})"

    def __call__(self, step: int, total_steps: float) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        total = _known(total_steps, self)
        return self.factor ** sum(step >= milestone * total for milestone in self.milestones)


class Piecewise(Schedule):
    """Given factors: the first until the first milestone, the next until the next, and the last to the end.

    Args:
        milestones: shares of the training in [0, 1], in rising order.
        factors: 0 or more, one more than milestones.

    Raises:
        ConfigurationError: for numbers outside these ranges, or counts that do not fit.
    """

    def __init__(self, milestones: Sequence[float], factors: Sequence[float]) -> None:
        milestones, factors = list(milestones), list(factors)
        if any(not 0 <= milestone <= 1 for milestone in milestones) or milestones != sorted(milestones):
            raise ConfigurationError(f"milestones={milestones}: give rising shares of the training between 0 and 1")
        if len(factors) != len(milestones) + 1 or any(not 0 <= factor < math.inf for factor in factors):
            raise ConfigurationError(
                f"factors={factors}: give {len(milestones) + 1} numbers of 0 or more, one more than milestones"
            )
        self.milestones = milestones
        self.factors = factors

    def __repr__(self) -> str:
        return f"Piecewise(milestones={self.milestones}, factors={self.factors})"

    def __call__(self, step: int, total_steps: float) -> float:
        """Return the factor of the weight at a step, counted from 0."""
        total = _known(total_steps, self)
        return self.factors[sum(step >= milestone * total for milestone in self.milestones)]


def _known(total_steps: float, schedule: Schedule) -> float:
    if not 0 < total_steps < math.inf:
        raise ConfigurationError(
            f"{schedule!r} needs to know how long the training is, but total_steps={total_steps}: "
            "give the Trainer max_steps or max_epochs, or count in steps where the schedule allows it"
        )
    return total_steps
