"""Selection of the layers of a model by pattern or predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn

from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError
from ortho_lightning.layers.filters import SUPPORTED, TRANSPOSED, filter_counts, is_quantized

Layers: TypeAlias = "str | Sequence[str] | Callable[[str, nn.Module], bool] | None"

_Named: TypeAlias = "tuple[str, nn.Module]"

# Layers that hold filters which this package cannot compare: asked for by name they are rejected, not passed over.
_UNSUPPORTED = (nn.Bilinear, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)


def select_layers(
    model: nn.Module, layers: Layers = None, exclude: Layers = None, *, outputs: bool = False
) -> dict[str, nn.Module]:
    """Return the layers that ``layers`` matches without those that ``exclude`` matches, by name, in the model's order.

    Args:
        model: any module.
        layers: None for every Conv1d/2d/3d and Linear with two or more filters a group; a shell-style pattern for the
            whole dotted name (``*`` also crosses dots), a list of patterns, or a predicate ``(name, module) -> bool``.
        exclude: likewise; None excludes nothing.
        outputs: the layers' outputs will be needed, not only their filters.

    Raises:
        LayerSelectionError: if a pattern matches no layer, or none is left; it lists the layers there are.
        UnsupportedLayerError: for a layer asked for that has no two filters to compare.
        ConfigurationError: for a selection that is neither of the above.
    """
    named = named_modules(model)
    available = [name for name, module in named if _usual(module)]
    holding = [(name, module) for name, module in named if _holds_filters(module)]
    excluded = set() if exclude is None else _chosen("exclude", exclude, _seen_by(exclude, named, holding), available)
    if layers is None:
        selected = {name: module for name, module in named if _usual(module) and name not in excluded}
    else:
        wanted = _chosen("layers", layers, holding, available) - excluded
        selected = {name: module for name, module in holding if name in wanted}
        for name, module in selected.items():
            _reject_unsupported(name, module, outputs)
    if not selected:
        raise LayerSelectionError(f"layers={layers!r} with exclude={exclude!r}", available)
    return selected


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules of a model by name, without the prefix of torch.compile, which is not part of a name."""
    return [(_without_prefix(name), module) for name, module in model.named_modules()]


def _without_prefix(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def check_selection(option: str, selection: Layers) -> list[str]:
    """Return the patterns of a selection; none for a predicate or None.

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


def _chosen(option: str, selection: Layers, named: list[_Named], available: list[str]) -> set[str]:
    """Return the names that a selection matches; each pattern must match one, so that a misspelt one is noticed."""
    if callable(selection):
        return {name for name, module in named if _accepts(option, selection, name, module)}
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


def _seen_by(exclude: Layers, named: list[_Named], holding: list[_Named]) -> list[_Named]:
    """Return what ``exclude`` is matched with: a predicate gets layers only, a pattern may name any module."""
    return holding if callable(exclude) else named


def _accepts(option: str, predicate: Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    try:
        return predicate(name, module)
    except Exception as error:
        raise ConfigurationError(
            f"{option}={predicate!r} raised {error!r} for layer {name!r}, a {type(module).__name__}: a predicate gets "
            "each layer that holds filters, and returns True or False"
        ) from error


def _usual(module: nn.Module) -> bool:
    """Return whether the layer is selected by default."""
    return isinstance(module, SUPPORTED) and _comparable(module)


def _holds_filters(module: nn.Module) -> bool:
    return isinstance(module, (*SUPPORTED, *TRANSPOSED, *_UNSUPPORTED)) or is_quantized(module)


def _comparable(module: nn.Module) -> bool:
    return filter_counts(module)[1] >= 2


def _reject_unsupported(name: str, module: nn.Module, outputs: bool) -> None:
    kind = type(module).__name__
    if isinstance(module, _UNSUPPORTED) or (outputs and is_quantized(module)):
        raise UnsupportedLayerError(name, f"{kind} is not a layer whose filters can be compared")
    if outputs and isinstance(module, TRANSPOSED):
        raise UnsupportedLayerError(
            name, f"{kind}'s outputs mix parts of its filters, so they tell no angles; use a weight-based regularizer"
        )
    if not is_quantized(module) and not _comparable(module):
        groups, width = filter_counts(module)
        raise UnsupportedLayerError(name, f"{kind} has {width} filter in each of {groups} groups, so it has no pairs")
