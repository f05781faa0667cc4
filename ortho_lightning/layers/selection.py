"""Selection of the layers of a model by pattern or predicate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from torch import nn

from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError
from ortho_lightning.layers.candidates import Candidate, Found, candidates, in_order, without_repeats
from ortho_lightning.layers.filters import filter_counts
from ortho_lightning.layers.kernels import Outputs
from ortho_lightning.layers.parts import Part
from ortho_lightning.layers.unmatched import unmatched


@dataclass(frozen=True)
class OutputsOf:
    """Selection of the outputs of any modules for penalties on outputs: a block, a projector, a norm.

    Each position of an output is a sample, and each entry of its axis a feature. Nothing is subtracted from them. A
    pattern in the place of this object means the same where it matches no layer with filters of its own, with the
    defaults of the other arguments.

    Args:
        pattern: a shell-style pattern for the whole dotted name of the modules.
        element: index or key of the tensor in an output that is a tuple, a list or a mapping; None: the output is it.
        axis: of the features; -1: the last, 1 for the channels of images.

    Example:
        >>> from ortho_lightning.layers import OutputsOf, select_parts
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
        >>> list(select_parts(model, OutputsOf("*"), outputs=True))
        ['0:output', '1']
    """

    pattern: str
    element: int | str | None = None
    axis: int = -1


Pattern: TypeAlias = str | OutputsOf
Layers: TypeAlias = str | OutputsOf | Sequence[str | OutputsOf] | Callable[[str, nn.Module], bool] | None

Need: TypeAlias = "bool | Literal['allowed']"


def select_layers(
    model: nn.Module, layers: Layers = None, exclude: Layers = None, *, outputs: Need = False
) -> dict[str, nn.Module]:
    """Return the modules of :func:`select_parts`; a module with several sets of filters appears once for each."""
    return {name: part.module for name, part in select_parts(model, layers, exclude, outputs=outputs).items()}


def select_parts(
    model: nn.Module, layers: Layers = None, exclude: Layers = None, *, outputs: Need = False
) -> dict[str, Part]:
    """Return the layers that ``layers`` matches without those that ``exclude`` matches, by name, in the model's order.

    A module with a single set of filters is a layer of its name. One with several, such as
    :class:`torch.nn.MultiheadAttention`, is several layers, ``name:part``.

    Args:
        model: any module.
        layers: None for every Conv1d/2d/3d and Linear with two or more filters a group; a shell-style pattern for the
            whole dotted name (``*`` also crosses dots), with ``:`` and a pattern for the part or without, which means
            every part, or ``:part``, which means that of any module; a list of patterns; or a predicate
            ``(name, module) -> bool``. A pattern that matches no layer with filters means the outputs of the modules
            that it matches, see :class:`OutputsOf`.
        exclude: likewise; None excludes nothing.
        outputs: True: the layers' outputs will be needed, not only their filters; "allowed": one of both will do.

    Raises:
        LayerSelectionError: if a pattern matches no layer, or none is left; it lists the layers there are.
        UnsupportedLayerError: for a layer asked for that has no two filters to compare.
        ConfigurationError: for a selection that is neither of the above, or a registered kernel that cannot work.
    """
    known = candidates(model)
    available = [name for each in known for name in each.usual]
    excluded = set() if exclude is None else set(_chosen("exclude", exclude, known, available, outputs=True))
    if layers is None:
        selected = {name: part for each in known for name, part in each.usual.items() if name not in excluded}
    else:
        wanted = _chosen("layers", layers, known, available, bool(outputs))
        found = [item for name, item in wanted.items() if not {name, item.module_name} & excluded]
        selected = without_repeats(in_order(found, known))
        for name, part in selected.items():
            _reject_unsupported(name, part, outputs)
    if not selected:
        named = [name for each in known for name in each.by_name]
        raise LayerSelectionError(f"layers={layers!r} with exclude={exclude!r}", available, by_name=named)
    return selected


def check_selection(option: str, selection: Layers) -> list[Pattern]:
    """Return the patterns of a selection; none for a predicate or None.

    Raises:
        ConfigurationError: for anything else, naming the option.
    """
    if selection is None or callable(selection):
        return []
    patterns = [selection] if isinstance(selection, str | OutputsOf) else selection
    if not isinstance(patterns, Iterable) or not all(isinstance(pattern, str | OutputsOf) for pattern in patterns):
        raise ConfigurationError(
            f"{option}={selection!r}: give a name pattern, a list of patterns, a predicate (name, module) -> bool,"
            " or None"
        )
    return list(patterns)


def _chosen(
    option: str, selection: Layers, known: list[Candidate], available: list[str], outputs: bool
) -> dict[str, Found]:
    """Return the layers that a selection matches; each pattern must match one, so that a misspelt one is noticed."""
    if callable(selection):
        return {
            name: Found(name, each.name, part)
            for each in known
            for name, part in each.ordinary.items()
            if _accepts(option, selection, name, each.module)
        }
    chosen: dict[str, Found] = {}
    for pattern in check_selection(option, selection):
        matched = _matched(option, pattern, known, outputs)
        if not matched:
            text = None if isinstance(pattern, OutputsOf) else pattern
            raise unmatched(f"{option}={pattern!r}", text, known, available)
        chosen |= matched
    return chosen


def _matched(option: str, pattern: Pattern, known: list[Candidate], outputs: bool) -> dict[str, Found]:
    if isinstance(pattern, OutputsOf):
        if not outputs:
            raise ConfigurationError(
                f"{option}={pattern!r}: the outputs of a module are for a penalty on outputs; this one looks at filters"
            )
        return _outputs_of(pattern.pattern, known, Outputs(pattern.axis, element=pattern.element))
    found = {item.name: item for each in known for item in each.matching(pattern)}
    if option == "exclude":  # which may name any module
        named = {each.name: Found(each.name, each.name, Part(each.module)) for each in known}
        found |= {name: item for name, item in named.items() if fnmatchcase(name, pattern)}
    return found or (_outputs_of(pattern, known, Outputs()) if outputs else {})


def _outputs_of(pattern: str, known: list[Candidate], where: Outputs) -> dict[str, Found]:
    # the model itself is none of its modules; of a compiled module what is inside
    matched = {each.name: each for each in known if fnmatchcase(each.name, pattern) and (each.name or not pattern)}
    found = {}
    for each in matched.values():
        name = f"{each.name}:output" if each.parts else each.name
        found[name] = Found(name, each.name, Part(each.module, "output", None, where))
    return found


def _accepts(option: str, predicate: Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    try:
        return predicate(name, module)
    except Exception as error:
        raise ConfigurationError(
            f"{option}={predicate!r} raised {error!r} for layer {name!r}, a {type(module).__name__}: a predicate gets "
            "each layer that holds filters, and returns True or False"
        ) from error


def _reject_unsupported(name: str, part: Part, outputs: Need) -> None:
    if part.outputs is not None and outputs and part.outputs.bias is not None:
        part.holder(part.outputs.bias)
    if outputs is True and part.outputs is None:
        raise UnsupportedLayerError(
            name, f"{part.kind}: {part.why_no_outputs}; use a weight-based regularizer, such as LSH(probe='exact')"
        )
    if part.kernel is None:
        return
    groups, width = filter_counts(part)
    if width < 2:
        raise UnsupportedLayerError(
            name, f"{part.kind} has {width} filter in each of {groups} groups, so it has no pairs"
        )
