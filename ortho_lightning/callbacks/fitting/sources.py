"""Sources of the vectors that WhiteningCallback gathers: a layer, or the module's ``predict_step``."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from ortho_lightning.callbacks.fitting.modes import evaluating
from ortho_lightning.errors import ConfigurationError, LayerSelectionError
from ortho_lightning.layers.candidates import named_modules

PREDICT_STEP = "predict_step"


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """Return the submodule with a dotted name.

    Raises:
        LayerSelectionError: if there is none, listing the names that exist.
    """
    named = {name: module for name, module in named_modules(model) if name}
    if layer not in named:
        nearby = next((name for name in named if name.endswith(f".{layer}")), None)
        raise LayerSelectionError(f"layer={layer!r}", named, nearby)
    return named[layer]


def predicted(trainer: Any, pl_module: Any, *batch: Any) -> Any:
    """Return what ``predict_step`` computes in evaluation mode without gradients; all modes are restored after it.

    Args:
        trainer: its precision applies.
        pl_module: the module.
        *batch: batch, batch index and dataloader index; ``predict_step`` receives as many as it has parameters.
    """
    with evaluating(pl_module), trainer.precision_plugin.predict_step_context():
        return pl_module.predict_step(*_accepted(pl_module.predict_step, batch))


def _accepted(step: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    parameters = inspect.signature(step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return arguments
    return arguments[: len(parameters)]


def checked_vectors(output: Any, layer: str) -> Tensor:
    """Return an output if it is a floating-point tensor ``(N, d)``.

    Raises:
        ConfigurationError: for any other output, naming the layer.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() != 2:
        kind = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(
            f"layer={layer!r}: its outputs are {kind}, not floating-point vectors (N, d). Choose a "
            "layer behind the pooling, or layer='predict_step' and return the vectors from there"
        )
    return output


def own_samples(loader: Any, batch_idx: int) -> tuple[int, int] | None:
    """Return how many samples of this process's batch are its own, and how many it has; None if all are.

    A DistributedSampler repeats the first samples of the data at its end, so that every process gets the same number.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or loader.batch_size is None:
        return None
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    first = batch_idx * loader.batch_size
    size = min(loader.batch_size, sampler.num_samples - first)
    return (max(own - first, 0), size) if own < first + size else None
