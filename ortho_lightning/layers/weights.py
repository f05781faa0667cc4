"""Weights of a module as it computes with them, parametrized, pruned, quantized or sharded, and their parameters.

A weight is an attribute of a module, its holder. Reading one here changes nothing.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def holder_of(module: nn.Module, weight: str) -> tuple[nn.Module, str]:
    """Return the module that holds a weight of a dotted name, and the weight's name in it."""
    path, _, name = weight.rpartition(".")
    return module.get_submodule(path) if path else module, name


def holds(holder: nn.Module, name: str) -> bool:
    """Return whether the module has an attribute, without computing it where it is parametrized."""
    own = holder.__dict__
    return name in own["_parameters"] or name in own or hasattr(type(holder), name) or hasattr(holder, name)


def effective(holder: nn.Module, name: str) -> Tensor:
    """Return the weight that the module computes with, with its graph; a spectral norm makes no power iteration."""
    observed: Any = getattr(holder, f"{name}_fake_quant", None)
    if hasattr(observed, "scale") and hasattr(observed, "quant_min"):
        return _fake_quantize(cast(Tensor, getattr(holder, name)), observed)
    parametrization = _parametrization(holder, name)
    if parametrization is not None:
        flags = [(part, part.training) for part in parametrization.modules()]
        try:
            for part, _ in flags:
                part.training = False  # spectral norm's power iteration runs in training mode only
            return whole(cast(Tensor, getattr(holder, name)))
        finally:
            for part, training in flags:
                part.training = training
    held: Any = getattr(holder, name)
    weight = whole(held() if is_quantized(holder, name) else held)
    return weight.dequantize() if weight.is_quantized else weight


def shape_of(holder: nn.Module, name: str) -> torch.Size | None:
    """Return the shape of the weight; None where reading it would compute it, or it has none yet."""
    weight = holder._parameters.get(name, holder.__dict__.get(name))  # the latter of older reparametrizations
    return None if weight is None or is_lazy(weight) or weight.dim() < 2 else weight.shape


def of_run(holder: nn.Module, name: str) -> Tensor | None:
    """Return the weight that a reparametrization by forward hooks made for this run; called in a forward hook.

    The next run replaces it, perhaps by one without a graph. None for every other weight, which can wait.
    """
    weight = holder.__dict__.get(name)
    return weight if isinstance(weight, Tensor) else None


def remake(holder: nn.Module, name: str) -> None:
    """Make the weight of an older reparametrization anew from its parameters, as the module's next run will."""
    if of_run(holder, name) is None:
        return
    training, holder.training = holder.training, False  # spectral norm's power iteration runs in training mode only
    try:
        for hook in list(holder._forward_pre_hooks.values()):
            if hasattr(hook, "apply_mask") or hasattr(hook, "compute_weight"):
                hook(holder, ())
    finally:
        holder.training = training


def parameters_of(holder: nn.Module, name: str) -> list[Tensor]:
    """Return the parameters that the weight is made from; itself where nothing reparametrizes it."""
    parametrization = _parametrization(holder, name)
    if parametrization is not None:
        return list(parametrization.parameters())
    own = holder._parameters.get(name)
    if own is not None:
        return [own]
    # the older reparametrizations by hooks leave weight_g and weight_v, or weight_orig
    return [value for key, value in holder.named_parameters(recurse=False) if key.startswith(f"{name}_")]


def requires_grad(holder: nn.Module, name: str) -> bool:
    """Return whether the effective weight requires a gradient now, without computing it."""
    parametrization = _parametrization(holder, name)
    if parametrization is not None:
        return any(parameter.requires_grad for parameter in parametrization.parameters())
    weight = getattr(holder, name)
    return isinstance(weight, Tensor) and weight.requires_grad


def is_quantized(holder: nn.Module, name: str = "weight") -> bool:
    """Return whether the weight is quantized: torch's quantized layers have a method of that name."""
    # asked of the class, since reading a parametrized weight computes it
    return inspect.isfunction(getattr(type(holder), name, None))


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor of which each process may hold a shard (FSDP2): a shard is not a kernel.

    Its gradient is the mean over processes, each with samples of its own, as is that of the layer's own use of it.
    """
    if not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    shard: Any = tensor
    processes = shard.device_mesh.size()
    gathered: Tensor = shard.full_tensor(grad_placements=[Partial()] * shard.device_mesh.ndim)
    if gathered.requires_grad:
        gathered.register_hook(lambda gradient: gradient / processes)  # Partial means a sum
    return gathered


def _parametrization(holder: nn.Module, name: str) -> nn.Module | None:
    """Return what makes the weight of a module parametrized by ``torch.nn.utils.parametrize``."""
    parametrizations = getattr(holder, "parametrizations", None)
    return parametrizations[name] if parametrizations is not None and name in parametrizations else None


def _fake_quantize(weight: Tensor, observed: Any) -> Tensor:
    scale, zero, low, high = observed.scale, observed.zero_point, observed.quant_min, observed.quant_max
    if scale.numel() > 1:
        axis = observed.ch_axis
        return torch.fake_quantize_per_channel_affine(weight, scale, zero.to(torch.int32), axis, low, high)
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero.to(torch.int32), low, high)
