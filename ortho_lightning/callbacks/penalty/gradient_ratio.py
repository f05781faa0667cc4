"""How strong the penalty is beside the task: the ratio of their gradients' norms, found without disturbing either."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ortho_lightning.callbacks.penalty.synchronize import world_size
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import weight_parameters


class GradientRatio:
    """The norm of the penalty's gradient over that of the task's, on the weights of each layer and of all together.

    Two backward passes of their own, through the graph that training will go through afterwards: nothing is added to
    any ``.grad``, and buffers and the random state, which activation checkpointing moves when it recomputes, are put
    back. Hooks on gradients that a user has registered run in them too. Of a parametrized layer the weights are the
    parameters that its weight is made from. Under DDP the gradients are averaged over processes first, as DDP does with
    them, in one collective.

    Args:
        model: whose buffers are put back.
        layers: the layers by name.
        every: steps between measurements.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module], every: int) -> None:
        self.found: dict[str, float] = {}
        """What was measured since it was last emptied: ``gradient_ratio`` and ``gradient_ratio/<layer>``."""
        self._model = model
        self._layers = layers
        self._every = every
        self._window = -1
        self._batch = -1
        self._norms: dict[int, tuple[float, float]] = {}  # of the penalty and of the task, by parameter

    def is_due(self, step: int, batch: int) -> bool:
        """Whether to measure now: at the first penalty of an interval, and all others in the same batch."""
        if step // self._every != self._window:
            self._window, self._batch = step // self._every, batch
            self._norms = {}
        return batch == self._batch

    def measure(self, penalty: Tensor | None, loss: Tensor, scale: float) -> None:
        """Compare the gradients of the penalty, weighted as it joins, and of the loss that it joins.

        Left out are layers that the penalty does not reach, and quotients that are not finite.

        Args:
            penalty: None: no layer ran in this process.
            loss: without the penalty.
            scale: what both are multiplied by on the way back, so that half precision holds them (the loss's scale).
        """
        if penalty is None and world_size() == 1:
            return
        weights = {name: _trained(layer) for name, layer in self._layers.items()}
        parameters = list({id(weight): weight for own in weights.values() for weight in own}.values())
        with _undisturbed(self._model, loss.device), _explained():
            of_penalty = _gradients(penalty, parameters, scale)
            of_task = _gradients(loss, parameters, scale)
        for parameter, reached, own, task in zip(parameters, *_averaged(of_penalty, of_task, parameters), strict=True):
            if reached:
                self._norms[id(parameter)] = (_norm(own), _norm(task))
        for name, own_weights in weights.items():
            known = [self._norms[id(weight)] for weight in own_weights if id(weight) in self._norms]
            self._record(f"gradient_ratio/{name}", known)
        self._record("gradient_ratio", self._norms.values())

    def _record(self, key: str, norms: Iterable[tuple[float, float]]) -> None:
        norms = list(norms)
        penalty = math.hypot(*(of_penalty for of_penalty, _ in norms))
        task = math.hypot(*(of_task for _, of_task in norms))
        if task > 0 and math.isfinite(penalty / task):
            self.found[key] = penalty / task


def _trained(layer: nn.Module) -> list[Tensor]:
    # a lazy one that has not run yet has no values
    return [each for each in weight_parameters(layer) if each.requires_grad and not is_lazy(each)]


def _gradients(value: Tensor | None, parameters: Sequence[Tensor], scale: float) -> list[Tensor | None]:
    if value is None or not value.requires_grad or not parameters:
        return [None] * len(parameters)
    upstream = torch.full_like(value, scale)
    return list(torch.autograd.grad(value, parameters, upstream, retain_graph=True, allow_unused=True))


def _averaged(
    of_penalty: Sequence[Tensor | None], of_task: Sequence[Tensor | None], parameters: Sequence[Tensor]
) -> tuple[list[bool], list[Tensor], list[Tensor]]:
    """Which parameters the penalty reaches, and both gradients in float32 or better: means over processes."""
    reached = [gradient is not None for gradient in of_penalty]
    both = []
    for gradient, parameter in zip((*of_penalty, *of_task), (*parameters, *parameters), strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        both.append(gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32)))
    processes = world_size()
    if processes > 1 and parameters:
        marks = torch.tensor(reached, dtype=both[0].dtype, device=both[0].device)
        flat = torch.cat([marks, *(gradient.flatten() for gradient in both)])
        dist.all_reduce(flat)
        marks, *parts = flat.split([len(reached), *(gradient.numel() for gradient in both)])
        reached, both = [bool(mark) for mark in marks.tolist()], [part / processes for part in parts]
    return reached, both[: len(reached)], both[len(reached) :]


def _norm(gradient: Tensor) -> float:
    return float(torch.linalg.vector_norm(gradient))


@contextlib.contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put buffers and random states back afterwards, and stay out of autocast, as a backward does."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers() if not is_lazy(buffer)]
    devices = [] if device.index is None else [device.index]
    kind = device.type if device.type != "cpu" else "cuda"
    try:
        with torch.random.fork_rng(devices, device_type=kind), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for buffer, before in kept:
            buffer.data.copy_(before)  # .data: the graph may hold the buffer, and its values are what they were


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        remedies = {
            "use_reentrant": "checkpoint with use_reentrant=False",
            "donated": "set torch._functorch.config.donated_buffer = False before anything is compiled",
        }
        for word, remedy in remedies.items():
            if word in str(error):
                raise ConfigurationError(
                    f"log_gradient_ratio_every_n_steps needs backward passes of its own, but here: {error} Either "
                    f"{remedy}, or leave log_gradient_ratio_every_n_steps=None."
                ) from error
        raise
