"""The ratio of the penalty's gradient to the task's, measured without disturbing training."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ortho_lightning.distributed import world_size
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import Layer, weight_parameters


class GradientRatio:
    """Norm of the penalty's gradient over that of the task's, on the weights of each layer and of all together.

    Two backward passes of their own, through the graph that training will go through afterwards: nothing is added to
    any ``.grad``, and buffers and the random state, which activation checkpointing moves when it recomputes, are put
    back. Hooks on gradients that a user has registered run in them too. Of a parametrized layer the weights are the
    parameters that its weight is made from. Under DDP the gradients are averaged over processes first, as DDP does with
    them, in one collective.

    Args:
        model: whose buffers are put back.
        layers: the layers by name.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self._model = model
        self._layers = layers
        self._batch = -1
        self._norms: dict[int, tuple[float, float]] = {}  # of the penalty and of the task, by parameter

    def measure(
        self, penalty: Tensor | None, loss: Tensor, batch: int, scale: float = 1.0, weight: float = 1.0
    ) -> dict[str, float]:
        """Return the ratios of the gradients of the penalty, before its weight, and of the task's loss.

        The names are ``gradient_ratio`` and ``gradient_ratio/<layer>``. Left out are layers that the penalty does not
        reach, and quotients that are not finite. Under manual optimization a batch may have several losses: the ratios
        are of all that were measured in it.

        Args:
            penalty: None: no layer ran in this process.
            loss: without the penalty.
            batch: any number of its own.
            scale: what both are multiplied by on the way back, so that half precision holds them (the loss's scale).
            weight: of the penalty on the way back, for the same reason; above 0.
        """
        if batch != self._batch:
            self._batch, self._norms = batch, {}
        if penalty is None and world_size() == 1:
            return {}
        weights = {name: _trained(layer) for name, layer in self._layers.items()}
        parameters = list({id(weight): weight for own in weights.values() for weight in own}.values())
        with _undisturbed(self._model, loss.device), _explained():
            of_penalty = _gradients(penalty, parameters, scale, weight)
            of_task = _gradients(loss, parameters, scale)
        for parameter, reached, own, task in zip(parameters, *_averaged(of_penalty, of_task, parameters), strict=True):
            if reached:
                self._norms[id(parameter)] = (_norm(own), _norm(task))
        by_layer = {
            f"gradient_ratio/{name}": _ratio([self._norms[id(own)] for own in of_layer if id(own) in self._norms])
            for name, of_layer in weights.items()
        }
        found = {**by_layer, "gradient_ratio": _ratio(list(self._norms.values()))}
        return {key: ratio for key, ratio in found.items() if ratio is not None}


def _ratio(norms: Sequence[tuple[float, float]]) -> float | None:
    """Return the norm of all penalty gradients over that of all task gradients; None where it is not finite."""
    penalty = math.hypot(*(of_penalty for of_penalty, _ in norms))
    task = math.hypot(*(of_task for _, of_task in norms))
    return penalty / task if task > 0 and math.isfinite(penalty / task) else None


def _trained(layer: Layer) -> list[Tensor]:
    # a lazy one that has not run yet has no values
    return [each for each in weight_parameters(layer) if each.requires_grad and not is_lazy(each)]


def _gradients(
    value: Tensor | None, parameters: Sequence[Tensor], scale: float, weight: float = 1.0
) -> list[Tensor | None]:
    """Return gradients times ``scale``, in float32 or better; on the way back they are ``weight`` times as large."""
    if value is None or not value.requires_grad or not parameters:
        return [None] * len(parameters)
    upstream = torch.full_like(value, scale * weight)
    found = torch.autograd.grad(value, parameters, upstream, retain_graph=True, allow_unused=True)
    # the weight is this process's own, so it is taken back before any mean over processes
    return [None if gradient is None else _full(gradient) / weight for gradient in found]


def _full(gradient: Tensor) -> Tensor:
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))


def _averaged(
    of_penalty: Sequence[Tensor | None], of_task: Sequence[Tensor | None], parameters: Sequence[Tensor]
) -> tuple[list[bool], list[Tensor], list[Tensor]]:
    """Return which parameters the penalty reaches, and both gradients as means over processes; zeros for none."""
    reached = [gradient is not None for gradient in of_penalty]
    both = []
    for gradient, parameter in zip((*of_penalty, *of_task), (*parameters, *parameters), strict=True):
        both.append(_full(torch.zeros_like(parameter)) if gradient is None else gradient)
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
                    "log_gradient_ratio_every_n_steps and weight=GradientShare(...) need backward passes of their own, "
                    f"but here: {error} Either {remedy}, or leave log_gradient_ratio_every_n_steps=None and give a "
                    "number as weight."
                ) from error
        raise
