"""Filters of a layer as ``(groups, k, d)``, and the weight that they are made from."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SUPPORTED = (*_CONVOLUTIONS, nn.Linear)


def filter_counts(module: nn.Module) -> tuple[int, int]:
    """Return ``(groups, k)``, of the weight that the layer has, not of attributes that pruning leaves behind.

    Where reading the weight would compute it, or a lazy layer has none yet, the attributes tell.
    """
    groups = getattr(module, "groups", 1)
    weight = module._parameters.get("weight", module.__dict__.get("weight"))  # the latter of older reparametrizations
    if weight is None or is_lazy(weight) or weight.dim() < 2:
        width = module.out_features if isinstance(module, nn.Linear) else cast(nn.Conv2d, module).out_channels
        return groups, width // groups
    return groups, weight.shape[1] if isinstance(module, TRANSPOSED) else weight.shape[0] // groups


def effective_weight(module: nn.Module) -> Tensor:
    """Return the weight that the layer computes with: parametrized, quantization-aware or dequantized, with its graph.

    Reading it changes nothing: a spectral norm makes no power iteration. Of reparametrizations by forward hooks (the
    older ``weight_norm``, pruning) it is the value of the last forward.
    """
    if hasattr(module, "weight_fake_quant"):
        observed: Any = module.weight_fake_quant
        if hasattr(observed, "scale") and hasattr(observed, "quant_min"):
            return _fake_quantize(cast(Tensor, module.weight), observed)
    parametrization = _parametrization(module)
    if parametrization is not None:
        flags = [(part, part.training) for part in parametrization.modules()]
        try:
            for part, _ in flags:
                part.training = False  # spectral norm's power iteration runs in training mode only
            return whole(cast(Tensor, module.weight))
        finally:
            for part, training in flags:
                part.training = training
    held: Any = module.weight
    weight = whole(held() if is_quantized(module) else held)
    return weight.dequantize() if weight.is_quantized else weight


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


def _parametrization(module: nn.Module) -> nn.Module | None:
    """Return what makes the weight of a layer parametrized by ``torch.nn.utils.parametrize``."""
    parametrizations = getattr(module, "parametrizations", None)
    return parametrizations["weight"] if parametrizations is not None and "weight" in parametrizations else None


def _fake_quantize(weight: Tensor, observed: Any) -> Tensor:
    scale, zero, low, high = observed.scale, observed.zero_point, observed.quant_min, observed.quant_max
    if scale.numel() > 1:
        axis = observed.ch_axis
        return torch.fake_quantize_per_channel_affine(weight, scale, zero.to(torch.int32), axis, low, high)
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero.to(torch.int32), low, high)


def layer_filters(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """Return the layer's filters, ``(groups, k, d)``, with their graph; conv: d = in / groups * kernel elements.

    Args:
        module: the layer.
        weight: the weight of a certain run, from :func:`weight_of_run`; None: the effective weight now.
    """
    weight = effective_weight(module) if weight is None else weight
    if isinstance(module, TRANSPOSED):  # (in, out / groups, *kernel): filter j collects what leads to channel j
        groups = module.groups
        parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return parts.transpose(1, 2).flatten(2)
    groups = getattr(module, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def weight_of_run(module: nn.Module) -> Tensor | None:
    """Return the weight that a reparametrization by forward hooks made for this run; called in a forward hook.

    The next run replaces it, perhaps by one without a graph. None for every other layer, whose weight can wait.
    """
    weight = module.__dict__.get("weight")
    return weight if isinstance(weight, Tensor) else None


def remake_weight(module: nn.Module) -> None:
    """Make the weight of the older reparametrizations anew from their parameters, as the layer's next run will.

    It keeps the graph of the last run otherwise, which is used up, and the values from before the optimizer's step.
    """
    if weight_of_run(module) is None:
        return
    training, module.training = module.training, False  # spectral norm's power iteration runs in training mode only
    try:
        for hook in list(module._forward_pre_hooks.values()):
            if hasattr(hook, "apply_mask") or hasattr(hook, "compute_weight"):
                hook(module, ())
    finally:
        module.training = training


def weight_parameters(module: nn.Module) -> list[Tensor]:
    """Return the parameters that the layer's weight is made from; itself where nothing reparametrizes it."""
    parametrization = _parametrization(module)
    if parametrization is not None:
        return list(parametrization.parameters())
    # the older reparametrizations by hooks leave weight_g and weight_v, or weight_orig
    return [value for name, value in module.named_parameters(recurse=False) if name.startswith("weight")]


def trains(module: nn.Module) -> bool:
    """Return whether the layer's effective weight requires a gradient now, without computing it."""
    parametrization = _parametrization(module)
    if parametrization is not None:
        return any(parameter.requires_grad for parameter in parametrization.parameters())
    weight = module.weight
    return isinstance(weight, Tensor) and weight.requires_grad


def is_quantized(module: nn.Module) -> bool:
    """Return whether the layer's weight is quantized."""
    # their weight is a method; asked of the class, since reading a parametrized weight computes it
    return inspect.isfunction(getattr(type(module), "weight", None))
