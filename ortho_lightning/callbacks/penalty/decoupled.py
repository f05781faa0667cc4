"""A penalty on filters that is applied after each optimizer's step, as AdamW applies weight decay.

Source of the idea: Loshchilov and Hutter 2019, "Decoupled weight decay regularization" (arXiv 1711.05101). The reason
is the same: an adaptive optimizer divides the gradient of a penalty in the loss by the root of the second moment of the
task's gradient, so that the same weight is strong in some layers and weak in others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from ortho_lightning.callbacks.penalty.scalars import Joined
from ortho_lightning.callbacks.penalty.step_penalty import Penalties
from ortho_lightning.callbacks.penalty.term import PenaltyTerm, TermOptions, TermState
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import layer_filters, remake_weights, weight_parameters
from ortho_lightning.layers.parts import Part
from ortho_lightning.random import mix, number
from ortho_lightning.regularizers import LayerView


class DecoupledTerm(PenaltyTerm):
    """Moves weights against the penalty's gradient after each step: ``W -= lr * weight * gradient``.

    ``lr`` is the learning rate that the weight's parameter group has in that step. Weights without a gradient of the
    task are left alone, as an optimizer leaves them, and so are all weights in a step that mixed precision skips.

    Args:
        options: what to apply.
        state: of the callback.
    """

    def __init__(self, options: TermOptions, state: TermState) -> None:
        super().__init__(options, state)
        self._memory = state.memory
        self._trainer: Any = None
        self._handles: list[RemovableHandle] = []
        self._seen: set[str] = set()
        self._steps_applied = 0
        self._of_batch: dict[str, Tensor] = {}

    @property
    def seen(self) -> set[str]:
        """Names of the layers whose weights were in a step of an optimizer."""
        return self._seen

    @property
    def steps(self) -> int:
        """Steps of optimizers with a penalty so far."""
        return self._steps_applied

    def attach(self, trainer: Any, module: nn.Module) -> None:
        """Take part in the fit, which begins; its optimizers do not exist yet."""
        self._scope.enter(trainer)
        self._trainer = trainer

    def start(self, trainer: Any, module: Any) -> None:
        """Watch the optimizers, after their check.

        Raises:
            ConfigurationError: for an optimizer that takes more than one step a call, or has no learning rate.
        """
        super().start(trainer, module)
        for optimizer in trainer.optimizers:
            _check(optimizer)
            self._handles.append(optimizer.register_step_post_hook(self._stepped))

    def begin_batch(self, trainer: Any, observer: Any) -> None:
        """Take part in the steps of this batch."""
        super().begin_batch(trainer, observer)
        self._of_batch = {}

    def detach(self) -> None:
        """Leave the optimizers as they were; safe to call twice."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._scope.leave()
        self._trainer = None

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Apply the penalty to the weights of an optimizer, which has made a step."""
        if self._scope.is_over:  # an error ended it, and the callback was not told
            self.detach()
        if self._trainer is None or not self._scope.serves(self._trainer) or not self._is_due or _skipped(optimizer):
            return
        groups = {id(weight): group for group in optimizer.param_groups for weight in group["params"]}
        stepped = {name: _stepped_weights(layer, groups) for name, layer in self._layers.items()}
        layers = {name: self._layers[name] for name, weights in stepped.items() if weights}
        weight = self._schedule_factor() * (self._weight.value or 0.0)
        self._seen.update(layers)
        with torch.set_grad_enabled(weight > 0):
            views = {name: [self._view(name, layer)] for name, layer in layers.items()}
            device = next((own[0].device for own in stepped.values() if own), torch.device("cpu"))
            penalties = self._step_penalty.total(views, device)
        if penalties is None:
            return
        self._steps_applied += 1
        factor = weight * self._options.every_n_steps
        if weight > 0:
            _move([each for own in stepped.values() for each in own], penalties.total, groups, factor)
        self._note(penalties, views, weight, factor)

    def report_silent_layers(self) -> None:
        """Warn of layers whose weights no optimizer has moved."""
        still = [name for name in self._layers if name not in self._seen]
        if still and self._steps_applied > 0:
            self._reports.unmoved_layers(still, self._steps_applied)

    def _view(self, name: str, layer: Part) -> LayerView:
        # the seed is the same in all processes, and so are the weights after this
        seed = mix(self._steps.step, number(name))
        return LayerView(
            filters=lambda: _filters(layer), name=name, module=layer.module, seed=seed, memory=self._memory.of(name)
        )

    def _note(
        self, penalties: Penalties, views: Mapping[str, Sequence[LayerView]], weight: float, factor: float
    ) -> None:
        """Tell what was applied; several optimizers may step in one batch."""
        step = self._steps.step
        if self._scalars.wants_diagnostics(step):
            self._scalars.diagnosed(step, self._step_penalty.diagnostics(views))
        self._of_batch |= penalties.by_layer
        total = torch.stack([value.to(penalties.total.device) for value in self._of_batch.values()]).sum()
        self.penalty = total
        self._collapse.update(total)
        self._scalars.join(Joined(total, self._of_batch, weight, factor, in_loss=False))


def _filters(layer: Part) -> Tensor:
    remake_weights(layer)
    return layer_filters(layer)


def _check(optimizer: Any) -> None:
    kind = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ConfigurationError(
            f"apply='decoupled' with {kind}: it takes several steps per call and does line searches on the loss, which "
            "a separate update of the weights would invalidate; use apply='loss'"
        )
    if not hasattr(optimizer, "register_step_post_hook") or any("lr" not in group for group in optimizer.param_groups):
        raise ConfigurationError(
            f"apply='decoupled' with {kind}: it must be a torch.optim.Optimizer whose parameter groups have a learning "
            "rate 'lr'; use apply='loss'"
        )


def _skipped(optimizer: Any) -> bool:
    """Return whether a fused optimizer skipped its step for gradients that are not finite; others are not called."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def _stepped_weights(layer: Part, groups: Mapping[int, Any]) -> list[Tensor]:
    return [
        weight
        for weight in weight_parameters(layer)
        if id(weight) in groups and weight.requires_grad and not is_lazy(weight) and weight.grad is not None
    ]


def _move(weights: Sequence[Tensor], penalty: Tensor, groups: Mapping[int, Any], factor: float) -> None:
    unique = list({id(weight): weight for weight in weights}.values())
    gradients = torch.autograd.grad(penalty, unique, allow_unused=True)
    with torch.no_grad():
        for weight, gradient in zip(unique, gradients, strict=True):
            if gradient is not None:
                weight.add_(gradient, alpha=-float(groups[id(weight)]["lr"]) * factor)
