"""A layer seen as filters, and which layers of a model are meant.

A layer is k filters in R^d a group. ``filters`` gives them as ``(groups, k, d)``; what the layer answers to its inputs
is the business of :mod:`ortho_lightning.sampling`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError

Layers: TypeAlias = "str | Sequence[str] | Callable[[str, nn.Module], bool] | None"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SUPPORTED = (*_CONVOLUTIONS, nn.Linear)
# Layers that hold filters which this package cannot compare: asked for by name they are refused, not passed over.
_UNSUPPORTED = (nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)


# ---------------------------------------------------------------------------------------------------- layer selection


def select_layers(
    model: nn.Module, layers: Layers = None, exclude: Layers = None, *, outputs: bool = False
) -> dict[str, nn.Module]:
    """The layers that ``layers`` means less those that ``exclude`` means, by name, in the model's order.

    Args:
        model: any module.
        layers: None for every Conv1d/2d/3d and Linear with two or more filters a group; a shell-style pattern for the
            whole dotted name (``*`` also crosses dots), a list of patterns, or a predicate ``(name, module) -> bool``.
        exclude: likewise; None excludes nothing.
        outputs: the layers' outputs will be needed, not only their filters.

    Raises:
        LayerSelectionError: if a pattern means no layer, or none is left; it lists the layers there are.
        UnsupportedLayerError: for a layer asked for that has no two filters to compare.
        ConfigurationError: for a selection that is neither of the above.
    """
    # torch.compile's prefix is not part of a name
    named = [(name.replace("_orig_mod.", ""), module) for name, module in model.named_modules()]
    available = [name for name, module in named if _usual(module)]
    excluded = _chosen("exclude", exclude, named, available) if exclude is not None else set()
    if layers is None:
        selected = {name: module for name, module in named if _usual(module) and name not in excluded}
    else:
        holding = [(name, module) for name, module in named if _holds_filters(module)]
        wanted = _chosen("layers", layers, holding, available) - excluded
        selected = {name: module for name, module in holding if name in wanted}
        for name, module in selected.items():
            _refuse_unsupported(name, module, outputs)
    if not selected:
        raise LayerSelectionError(f"layers={layers!r} with exclude={exclude!r}", available)
    return selected


def check_selection(option: str, selection: Layers) -> list[str]:
    """The patterns of a selection; none for a predicate or None.

    Raises:
        ConfigurationError: for anything else, naming the option.
    """
    if selection is None or callable(selection):
        return []
    patterns = [selection] if isinstance(selection, str) else selection
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigurationError(
            f"{option}={selection!r}: give a name pattern, a list of patterns, a predicate (name, module) -> bool,"
            " or None"
        )
    return list(patterns)


def _chosen(option: str, selection: Layers, named: list[tuple[str, nn.Module]], available: list[str]) -> set[str]:
    """The names that a selection means; each of its patterns must mean one, so that a misspelt one is noticed."""
    if callable(selection):
        return {name for name, module in named if selection(name, module)}
    chosen = set()
    for pattern in check_selection(option, selection):
        matched = {name for name, _ in named if fnmatchcase(name, pattern)}
        if not matched:
            # users forget the attribute that holds their network, or name a block for its layers
            nearby = (f"*.{pattern}", f"{pattern}.*", f"*.{pattern}.*")
            meant = (guess for guess in nearby if any(fnmatchcase(name, guess) for name, _ in named))
            raise LayerSelectionError(f"{option}={pattern!r}", available, next(meant, None))
        chosen |= matched
    return chosen


def _usual(module: nn.Module) -> bool:
    """Whether the layer is meant when nothing is said."""
    return isinstance(module, _SUPPORTED) and _comparable(module)


def _holds_filters(module: nn.Module) -> bool:
    return isinstance(module, (*_SUPPORTED, *_TRANSPOSED, *_UNSUPPORTED)) or _is_quantized(module)


def _is_quantized(module: nn.Module) -> bool:
    # their weight is a method; asked of the class, since reading a parametrized weight computes it
    return inspect.isfunction(getattr(type(module), "weight", None))


def _comparable(module: nn.Module) -> bool:
    return filter_counts(module)[1] >= 2


def _refuse_unsupported(name: str, module: nn.Module, outputs: bool) -> None:
    kind = type(module).__name__
    if isinstance(module, _UNSUPPORTED) or (outputs and _is_quantized(module)):
        raise UnsupportedLayerError(name, f"{kind} is not a layer whose filters can be compared")
    if outputs and isinstance(module, _TRANSPOSED):
        raise UnsupportedLayerError(
            name, f"{kind}'s outputs mix parts of its filters, so they tell no angles; use a weight-based regularizer"
        )
    if not _is_quantized(module) and not _comparable(module):
        groups, width = filter_counts(module)
        raise UnsupportedLayerError(name, f"{kind} has {width} filter in each of {groups} groups, so it has no pairs")


# ---------------------------------------------------------------------------------------------------------- filters


def filter_counts(module: nn.Module) -> tuple[int, int]:
    """``(groups, k)``: also known before a lazy layer has seen data."""
    if isinstance(module, nn.Linear):
        return 1, module.out_features
    convolution = cast(nn.Conv2d, module)
    return convolution.groups, convolution.out_channels // convolution.groups


def effective_weight(module: nn.Module) -> Tensor:
    """The weight that the layer computes with: parametrized, quantization-aware or dequantized, with its graph.

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
    weight = whole(held() if _is_quantized(module) else held)
    return weight.dequantize() if weight.is_quantized else weight


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which each process may hold a shard (FSDP2), gathered from all of them: a shard is not a kernel.

    Its gradient is the mean over processes, each with rows of its own, as is that of the layer's own use of it.
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
    """What makes the weight of a layer parametrized by ``torch.nn.utils.parametrize``."""
    parametrizations = getattr(module, "parametrizations", None)
    return parametrizations["weight"] if parametrizations is not None and "weight" in parametrizations else None


def _fake_quantize(weight: Tensor, observed: Any) -> Tensor:
    scale, zero, low, high = observed.scale, observed.zero_point, observed.quant_min, observed.quant_max
    if scale.numel() > 1:
        axis = observed.ch_axis
        return torch.fake_quantize_per_channel_affine(weight, scale, zero.to(torch.int32), axis, low, high)
    return torch.fake_quantize_per_tensor_affine(weight, scale, zero.to(torch.int32), low, high)


def filters(module: nn.Module, weight: Tensor | None = None) -> Tensor:
    """The layer's filters, ``(groups, k, d)``, with their graph; conv: d = in / groups * kernel elements.

    Args:
        module: the layer.
        weight: the weight of a certain run, from :func:`weight_of_run`; None: the effective weight now.
    """
    weight = effective_weight(module) if weight is None else weight
    if isinstance(module, _TRANSPOSED):  # (in, out / groups, *kernel): filter j collects what leads to channel j
        groups = module.groups
        parts = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return parts.transpose(1, 2).flatten(2)
    groups = getattr(module, "groups", 1)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def weight_of_run(module: nn.Module) -> Tensor | None:
    """In a forward hook, the weight that a reparametrization by forward hooks made for this run.

    The next run replaces it, perhaps by one without a graph. None for every other layer, whose weight can wait.
    """
    weight = module.__dict__.get("weight")
    return weight if isinstance(weight, Tensor) else None


def weight_parameters(module: nn.Module) -> list[Tensor]:
    """The parameters that the layer's weight is made from; itself where nothing reparametrizes it."""
    parametrization = _parametrization(module)
    if parametrization is not None:
        return list(parametrization.parameters())
    # the older reparametrizations by hooks leave weight_g and weight_v, or weight_orig
    return [value for name, value in module.named_parameters(recurse=False) if name.startswith("weight")]


def trains(module: nn.Module) -> bool:
    """Whether the layer's effective weight requires a gradient now, found without computing it."""
    parametrization = _parametrization(module)
    if parametrization is not None:
        return any(parameter.requires_grad for parameter in parametrization.parameters())
    weight = module.weight
    return isinstance(weight, Tensor) and weight.requires_grad


def mix(*values: int) -> int:
    """A well-mixed non-negative 63-bit number from integers (the finalizer of SplitMix64 over each in turn)."""
    state = 0
    mask = (1 << 64) - 1
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
