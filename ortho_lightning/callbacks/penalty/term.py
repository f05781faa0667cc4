"""Base class of the ways to apply a penalty: what is due in a step, and what is told of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torch import Tensor, nn

from ortho_lightning.callbacks.angle_monitor import AngleMonitor
from ortho_lightning.callbacks.monitoring.angles import layer_angles
from ortho_lightning.callbacks.monitoring.arguments import Kind
from ortho_lightning.callbacks.monitoring.steps import StepCounter
from ortho_lightning.callbacks.penalty import compatibility
from ortho_lightning.callbacks.penalty.arguments import schedule_factor
from ortho_lightning.callbacks.penalty.collapse import CollapseWatch
from ortho_lightning.callbacks.penalty.memory import PenaltyMemory
from ortho_lightning.callbacks.penalty.reports import Reports
from ortho_lightning.callbacks.penalty.scalars import Joined, PenaltyScalars
from ortho_lightning.callbacks.penalty.scope import FitScope
from ortho_lightning.callbacks.penalty.step_penalty import StepPenalty
from ortho_lightning.callbacks.penalty.weight import PenaltyWeight
from ortho_lightning.layers.parts import Part
from ortho_lightning.regularizers import Regularizer

ScheduleFunction = Callable[[int, float], float]
Observer = Callable[[Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class TermOptions:
    """The arguments of :class:`~ortho_lightning.OrthogonalityCallback` that concern the penalty."""

    regularizer: Regularizer
    schedule: ScheduleFunction | None
    every_n_steps: int
    sync: Literal["local", "global"]
    log_every_n_steps: int | None
    log_gradient_ratio_every_n_steps: int | None

    @classmethod
    def of(cls, callback: Any) -> TermOptions:
        """Take the options from the callback's attributes of the same names, as they are now."""
        return cls(**{field.name: getattr(callback, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class TermState:
    """What a callback has of its own in a fit, and its term uses."""

    weight: PenaltyWeight
    """The weight before the schedule."""
    memory: PenaltyMemory
    """What the penalty keeps from step to step."""
    layers: Mapping[str, Part]
    """The selected layers by name."""
    steps: StepCounter
    """The steps done so far."""
    scalars: PenaltyScalars
    """What is logged of each step."""
    reports: Reports
    """Where what goes wrong is told."""


class PenaltyTerm(ABC):
    """A penalty in the training steps of one fit; subclasses say where it is applied.

    Args:
        options: what is applied.
        state: of the callback.
    """

    def __init__(self, options: TermOptions, state: TermState) -> None:
        self.penalty: Tensor | None = None
        """The last total penalty before weight, without graph."""
        self._options = options
        self._weight = state.weight
        self._layers = state.layers
        self._steps = state.steps
        self._scalars = state.scalars
        self._reports = state.reports
        self._scope = FitScope()
        self._step_penalty = StepPenalty(state.layers, options.regularizer, options.sync)
        self._collapse = CollapseWatch()
        self._total_steps = math.inf

    # ------------------------------------------------------------------------------------- in the order of their calls

    @abstractmethod
    def attach(self, trainer: Any, module: nn.Module) -> None:
        """Take part in the fit, which begins."""

    def start(self, trainer: Any, module: Any) -> None:
        """Find the length of the training, and reject a schedule that cannot work before the first batch."""
        if self._options.schedule is not None:
            self._total_steps = compatibility.total_steps(trainer, module)
            if self._steps.step < self._total_steps:
                self._schedule_factor()

    def begin_batch(self, trainer: Any, observer: Observer | None) -> None:
        """Take part in the steps of this batch; ``observer`` gets the sampled outputs, where there are any."""
        self._scope.begin_batch(trainer)

    def end_batch(self) -> Joined | None:
        """Return what was applied in the batch, which has ended."""
        self._scope.end_batch()
        return self._scalars.end_batch()

    @abstractmethod
    def detach(self) -> None:
        """Leave everything as it was; safe to call twice."""

    # -------------------------------------------------------------------------------------------------- between steps

    @property
    @abstractmethod
    def seen(self) -> set[str]:
        """Names of the layers that took part in a step."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """Steps with a penalty so far."""

    def take_gradient_ratios(self) -> dict[str, float]:
        """Return the gradient ratios that were measured since the last call."""
        return {}

    def report_silent_layers(self) -> None:
        """Warn of layers that did not take part in any step."""
        silent = [name for name in self._layers if name not in self.seen]
        if silent and self.steps > 0:
            self._reports.silent_layers(silent, self.steps)

    def watch_collapse(self, monitor: AngleMonitor | None, fresh: bool) -> None:
        """Warn if the filters or their responses fall together.

        Args:
            monitor: has measured responses, and perhaps filters; None: filters are measured here.
            fresh: the monitor's last measurement is of now.
        """
        filters = (monitor.measured if monitor is not None and fresh else {}) or layer_angles(self._layers)
        responses = {} if monitor is None else monitor.responses
        cosines = [found.rms_cos for found in filters.values()]
        similarities = [found.rms_similarity for found in responses.values()]
        message = self._collapse.check({"filter": cosines, "response": similarities})
        if message is not None and not self._weight.is_zero:
            self._reports.once("collapse", message.format(weight=self._weight))

    @property
    def samples_outputs(self) -> bool:
        """Whether the step at hand samples outputs for its penalty."""
        return self._options.regularizer.sampling is not None and self._is_due

    @property
    def moves(self) -> Kind:
        """The kind of angle that the penalty is on."""
        return "filter" if self._options.regularizer.sampling is None else "response"

    @property
    def _is_due(self) -> bool:
        return self._steps.step % self._options.every_n_steps == 0

    def _schedule_factor(self) -> float:
        return schedule_factor(self._options.schedule, self._steps.step, self._total_steps)
