"""A penalty that joins the loss: hook, record, penalty, loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ortho_lightning.callbacks.penalty import compatibility, intercept
from ortho_lightning.callbacks.penalty.gradient_ratio import GradientRatio
from ortho_lightning.callbacks.penalty.outweighing import OutweighingWatch
from ortho_lightning.callbacks.penalty.recording import LayerRecorder
from ortho_lightning.callbacks.penalty.scalars import Joined
from ortho_lightning.callbacks.penalty.step_penalty import Penalties
from ortho_lightning.callbacks.penalty.term import Observer, PenaltyTerm, TermOptions, TermState
from ortho_lightning.callbacks.penalty.weight import Measurements
from ortho_lightning.random import mix
from ortho_lightning.regularizers import LayerView

_MANY = 50  # steps between looks at the training, where the user gave no interval


class LossTerm(PenaltyTerm):
    """Records the layers' runs in each training step and adds the penalty to its loss.

    Args:
        options: what to add.
        state: of the callback.
    """

    def __init__(self, options: TermOptions, state: TermState) -> None:
        super().__init__(options, state)
        self.recorder = LayerRecorder(state.layers, options.regularizer.sampling, state.memory)
        self._observer: Observer | None = None
        self._outweighing = OutweighingWatch(options.log_every_n_steps or _MANY)
        self._logged_ratios = Measurements()
        self._gradient_ratio: GradientRatio | None = None
        self._gradient_ratios: dict[str, float] = {}
        self._module: nn.Module | None = None

    # ------------------------------------------------------------------------------------------------ begin and end

    def attach(self, trainer: Any, module: nn.Module) -> None:
        """Take part in the module's training steps from now on."""
        self._gradient_ratio = GradientRatio(module, self._layers)
        self._keep_hooks_of_compiled(module)
        self._scope.enter(trainer)
        self._module = module
        intercept.attach(module, self)

    def begin_batch(self, trainer: Any, observer: Observer | None) -> None:
        """Take part in the steps of this batch; ``observer`` gets the sampled outputs, where there are any."""
        super().begin_batch(trainer, observer)
        self._observer = observer

    def end_batch(self) -> Joined | None:
        """Return what joined the loss of the batch, which has ended."""
        self.recorder.settle()
        return super().end_batch()

    def detach(self) -> None:
        """Leave the module as it was; safe to call twice."""
        self.recorder.close()
        self._scope.leave()
        self._gradient_ratio = None
        if self._module is not None:
            intercept.detach(self._module, self)
            self._module = None

    # ----------------------------------------------------------------------- the training step, in the order of events

    def serves(self, module: Any) -> bool:
        """Return whether this training step belongs to the term's own fit."""
        if self._scope.serves(module._trainer):
            return True
        if self._scope.is_over:  # an error ended it, and the callback was not told
            self.detach()
        return False

    def recording(self, module: Any) -> contextlib.AbstractContextManager[None]:
        """Record the runs of the layers, if this step has a penalty."""
        if not self._is_due:
            return contextlib.nullcontext()
        self._keep_hooks_of_compiled(module)  # another callback may have compiled it since
        return self.recorder.record(seed=mix(self._steps.step, module.trainer.global_rank))

    def weighted_penalty(self, loss: Tensor) -> Tensor | None:
        """Return the penalty of the runs in the loss's graph as it joins the loss; None if nothing does."""
        if not self._is_due:
            return None
        step, scheduled = self._steps.step, self._schedule_factor()
        joins = scheduled > 0 and not self._weight.is_zero
        with torch.set_grad_enabled(joins):
            views = self._step_penalty.views(self.recorder.take(loss))
            penalties = self._step_penalty.total(views, loss.device)
        if joins:
            self._measure_gradients(penalties, loss, scheduled)
        if penalties is None:
            self._watch_independence()
            return None
        weight = scheduled * (self._weight.value or 0.0)
        if self._scalars.wants_diagnostics(step):
            self._scalars.diagnosed(step, self._step_penalty.diagnostics(views))
        self._show_outputs(views)
        self.penalty = penalties.total.detach()
        self._collapse.update(self.penalty)
        factor = weight * self._options.every_n_steps
        self._scalars.join(Joined(self.penalty, penalties.by_layer, weight, factor))
        if weight == 0:
            return None
        before_schedule = self._weight.value or 0.0
        message = self._outweighing.check(
            self.penalty, loss, weight, before_schedule, lambda: self._step_penalty.floor(views) or 0.0
        )
        if message is not None:
            self._reports.once("outweighing", message.format(weight=self._weight))
        return factor * penalties.total

    def step_ran(self, module: Any) -> None:
        """Report runs whose penalty is lost, and forget them."""
        if self.recorder.pending and not module.automatic_optimization:
            self._reports.unjoined_runs()
        self.recorder.discard()

    # -------------------------------------------------------------------------------------------------- between steps

    @property
    def seen(self) -> set[str]:
        """Names of the layers that ran in a training step, whether the run counted or not."""
        return self.recorder.seen

    @property
    def steps(self) -> int:
        """Training steps recorded so far."""
        return self.recorder.steps

    def take_gradient_ratios(self) -> dict[str, float]:
        """Return the gradient ratios that were measured since the last call."""
        found, self._gradient_ratios = self._gradient_ratios, {}
        return found

    def report_silent_layers(self) -> None:
        """Warn of layers that did not run in any step, that are frozen, or of whose runs no loss depends on any."""
        super().report_silent_layers()
        frozen = [name for name in self._layers if name in self.recorder.frozen]
        if frozen:
            self._reports.frozen_layers(frozen, self.steps)
        ran = [name for name in self._layers if name in self.seen]
        unreached = [name for name in self._layers if name in self.recorder.unreached]
        automatic = self._module is not None and self._module.automatic_optimization
        if 0 < len(unreached) < len(ran) and automatic:
            self._reports.unreached_layers(unreached, self.steps)

    def _watch_independence(self) -> None:
        if self.recorder.pending and self._module is not None and self._module.automatic_optimization:
            self._reports.independent_loss()

    def _show_outputs(self, views: Mapping[str, Sequence[LayerView]]) -> None:
        if self._observer is not None:
            self._observer({name: own[0].outputs for name, own in views.items()})

    def _keep_hooks_of_compiled(self, module: nn.Module) -> None:
        if not self.recorder.persistent and compatibility.is_compiled(module):
            self.recorder.persist()

    def _measure_gradients(self, penalties: Penalties | None, loss: Tensor, scheduled: float) -> None:
        """Measure the ratio of the gradients if it is due for the weight or for the log."""
        step, batch = self._steps.step, self.recorder.steps
        for_weight = self._weight.is_due(step, batch)
        every = self._options.log_gradient_ratio_every_n_steps
        for_log = every is not None and self._logged_ratios.is_due(step // every, batch)
        if self._gradient_ratio is None or self._module is None or not (for_weight or for_log):
            return
        total = None if penalties is None else penalties.total
        trial = self._weight.value or _evening_out(total, loss)
        scale = compatibility.loss_scale(self._module.trainer)
        ratios = self._gradient_ratio.measure(total, loss, batch, scale, scheduled * trial)
        if for_weight and self._weight.measured(ratios.get("gradient_ratio"), batch):
            self._reports.no_weight(str(self._weight))
        weight = scheduled * (self._weight.value or 0.0)
        self._gradient_ratios |= {name: weight * ratio for name, ratio in ratios.items()}


def _evening_out(penalty: Tensor | None, loss: Tensor) -> float:
    """Return the weight, within a factor of a million, at which the penalty is as large as the loss."""
    above, below = abs(float(loss.detach())), 0.0 if penalty is None else float(penalty.detach())
    found = above / below if below > 0 else 1.0
    return min(max(found, 1e-6), 1e6) if math.isfinite(found) else 1.0
