"""The modules of a model with the parts that can be selected of each, and how a pattern matches them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from ortho_lightning.layers.filters import filter_counts
from ortho_lightning.layers.parts import Part, parts_of
from ortho_lightning.layers.registry import is_default


@dataclass(frozen=True)
class Found:
    """A layer that a selection matches.

    Attributes:
        name: of the layer.
        module_name: of its module.
        part: the layer.
    """

    name: str
    module_name: str
    part: Part


@dataclass(frozen=True)
class Candidate:
    """A module of a model.

    Attributes:
        name: dotted name, without the prefix of torch.compile.
        module: the module.
        parts: its parts by their name in it.
    """

    name: str
    module: nn.Module
    parts: dict[str, Part]

    @property
    def ordinary(self) -> dict[str, Part]:
        """The parts that need not be asked for, by the name of the layer."""
        return {self._full(key): part for key, part in self.parts.items() if not _on_request(part)}

    @property
    def usual(self) -> dict[str, Part]:
        """The parts that are selected by default."""
        if not is_default(self.module):
            return {}
        return {name: part for name, part in self.ordinary.items() if filter_counts(part)[1] >= 2}

    @property
    def by_name(self) -> list[str]:
        """The names of the layers that are selected only by a pattern that names them or their module."""
        return [] if is_default(self.module) else list(map(self._full, self.parts))

    def matching(self, pattern: str) -> list[Found]:
        """Return the parts that a pattern matches: ``name``, which means every part, or ``name:part``.

        ``:part`` means a part of any module.
        What is there on request only is matched where the pattern names a part that none of the others has.
        """
        if fnmatchcase(self.name, pattern):
            keys = [key for key, part in self.parts.items() if not _on_request(part)]
        else:
            of_module, of_part = halves(pattern)
            if of_part is None or not fnmatchcase(self.name, of_module):
                return []
            named = [key for key in self.parts if fnmatchcase(key, of_part)]
            keys = [key for key in named if not _on_request(self.parts[key])] or named
        return [Found(self._full(key), self.name, self.parts[key]) for key in keys]

    def _full(self, key: str) -> str:
        return f"{self.name}:{key}" if key else self.name


def halves(pattern: str) -> tuple[str, str | None]:
    """Return the patterns for the module and for its part; None where a pattern has none for the part."""
    of_module, colon, of_part = pattern.rpartition(":")
    return (of_module or "*", of_part) if colon else (pattern, None)


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules of a model by name, without the prefix of torch.compile, which is not part of a name."""
    return [(_without_prefix(name), module) for name, module in model.named_modules()]


def candidates(model: nn.Module) -> list[Candidate]:
    """Return the modules of a model in its order."""
    return [Candidate(name, module, parts_of(module)) for name, module in named_modules(model)]


def in_order(found: Iterable[Found], known: Sequence[Candidate]) -> list[Found]:
    """Return the layers in the model's order, those of a module in the order of its parts, its outputs last."""
    places = {each.name: (number, list(each.parts)) for number, each in enumerate(known)}

    def place(item: Found) -> tuple[int, int]:
        number, keys = places[item.module_name]
        return number, keys.index(item.part.key) if item.part.kernel is not None else len(keys)

    return sorted(found, key=place)


def without_repeats(found: Iterable[Found]) -> dict[str, Part]:
    """Return the layers by name, without those whose filters another layer has.

    A module that holds a part's weight and is a layer too, such as ``out_proj`` of an attention, is such a one: the
    part stays, since its module runs.
    """
    seen: set[object] = set()
    kept: dict[str, Part] = {}
    for item in found:
        kernel = item.part.kernel
        if kernel is not None:
            places = [item.part.holder(name) for name in kernel.weights]
            key = (*((id(holder), name) for holder, name in places), kernel.filters)
            if key in seen:
                continue
            seen.add(key)
        kept[item.name] = item.part
    return kept


def _on_request(part: Part) -> bool:
    return part.kernel is not None and part.kernel.on_request


def _without_prefix(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
