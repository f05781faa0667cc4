"""Registry of the modules that hold filters, open to users: a class of modules, and a function that names its kernels.

A module is looked up by its class and then by each class that it inherits from, as :func:`functools.singledispatch`
does. A class may be given by its qualified name, so that a package that is not used is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from torch import nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.kernels import Kernel

Kernels: TypeAlias = "Kernel | Mapping[str, Kernel]"
KernelsOf: TypeAlias = Callable[[Any], Kernels]
F = TypeVar("F", bound=KernelsOf)


@dataclass(frozen=True)
class _Entry:
    kernels: KernelsOf
    default: bool


_ENTRIES: dict[type | str, _Entry] = {}


def register(kind: type[nn.Module] | str, *, default: bool = False) -> Callable[[F], F]:
    """Return a decorator for the function that says what the filters of a class of modules are.

    The function gets a module and returns its :class:`~ortho_lightning.layers.Kernel`, or several by name. Its layer is
    called ``module``, or ``module:name`` for each of several. Registering a class again replaces what was registered.

    Args:
        kind: the class, which its subclasses share; or its qualified name, ``"package.module.Class"``.
        default: ``layers=None`` selects it, where it has two or more filters.

    Raises:
        ConfigurationError: for anything else than a class of modules or a dotted name.

    Example:
        >>> import torch
        >>> from ortho_lightning import layers
        >>> class LowRank(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(2, 3))
        >>> @layers.register(LowRank)
        ... def kernels(module):
        ...     product = layers.Kernel(("up", "down"), lambda up, down: (up @ down).unsqueeze(0))
        ...     return {"product": product, "down": layers.Kernel("down")}
        >>> {name: tuple(layers.layer_filters(part).shape) for name, part in layers.parts_of(LowRank()).items()}
        {'product': (1, 4, 3), 'down': (1, 2, 3)}
    """
    named = isinstance(kind, str) and "." in kind
    if not named and not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigurationError(
            f"register({kind!r}): give a class of modules, or its qualified name, as in 'package.module.Class'"
        )

    def decorate(kernels: F) -> F:
        _ENTRIES[kind] = _Entry(kernels, default)
        return kernels

    return decorate


def kernels_of(module: nn.Module) -> dict[str, Kernel]:
    """Return the kernels of a module by name, ``""`` for a single one; empty for a module that holds no filters.

    Raises:
        ConfigurationError: for a registered function that fails, or returns anything else than kernels.
    """
    entry = _entry_of(module)
    if entry is None:
        return {}
    try:
        found = entry.kernels(module)
    except Exception as error:
        raise ConfigurationError(
            f"the function registered for {type(module).__name__} raised {error!r}: it gets a module and returns its "
            "Kernel, or several by name"
        ) from error
    by_name = {"": found} if isinstance(found, Kernel) else found
    if not isinstance(by_name, Mapping) or not all(isinstance(kernel, Kernel) for kernel in by_name.values()):
        raise ConfigurationError(
            f"the function registered for {type(module).__name__} returned {found!r}: it must be a Kernel, or several "
            "by name"
        )
    for key, kernel in by_name.items():
        _check(module, key, kernel)
    return dict(by_name)


def is_default(module: nn.Module) -> bool:
    """Return whether ``layers=None`` means the module too."""
    entry = _entry_of(module)
    return entry is not None and entry.default


def _check(module: nn.Module, key: str, kernel: Kernel) -> None:
    """Reject a kernel whose weight is no name, or whose filters are a class."""
    what = f"the function registered for {type(module).__name__}" + (f", part {key!r}" if key else "")
    names = (kernel.weight,) if isinstance(kernel.weight, str) else kernel.weight
    if not isinstance(names, tuple | list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(
            f"{what}: the weight of a Kernel is the name of an attribute or several names, not a "
            f"{type(kernel.weight).__name__}"
        )
    if isinstance(kernel.filters, type) or not callable(kernel.filters):
        shown = getattr(kernel.filters, "__name__", repr(kernel.filters))
        raise ConfigurationError(
            f"{what}: the filters of a Kernel are a function of the weight, such as Rows(); write {shown}() if "
            f"{shown} is a class"
        )


def _entry_of(module: nn.Module) -> _Entry | None:
    for kind in type(module).__mro__:
        entry = _ENTRIES.get(kind) or _ENTRIES.get(f"{kind.__module__}.{kind.__qualname__}")
        if entry is not None:
            return entry
    return None
