"""Parts: what is penalized and measured as one layer, a module's filters or some of them, or its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers import weights
from ortho_lightning.layers.kernels import Kernel, Outputs
from ortho_lightning.layers.registry import kernels_of


@dataclass(frozen=True, eq=False)
class Part:
    """A set of filters of a module, or its outputs without regard to filters.

    Attributes:
        module: whose forward is observed.
        key: the part's name in the module; empty for a module with a single set of filters.
        kernel: the filters; None: outputs only.
        outputs: where the outputs are; None: there are none for these filters.
    """

    module: nn.Module
    key: str = ""
    kernel: Kernel | None = None
    outputs: Outputs | None = None

    @classmethod
    def of(cls, module: nn.Module, key: str, kernel: Kernel) -> Part:
        """Return the part of a module that a kernel describes."""
        return cls(module, key, kernel, kernel.outputs if isinstance(kernel.outputs, Outputs) else None)

    @property
    def kind(self) -> str:
        """What to call it in a message."""
        return type(self.module).__name__ + (f" (part {self.key!r})" if self.key else "")

    def holder(self, name: str) -> tuple[nn.Module, str]:
        """Return the module that holds an attribute that the kernel names by a dotted name, and its name there.

        Raises:
            ConfigurationError: if there is none, naming the class and the part.
        """
        try:
            holder, own = weights.holder_of(self.module, name)
        except AttributeError:
            pass
        else:
            if weights.holds(holder, own):
                return holder, own
        raise ConfigurationError(f"{self.kind}: its registered kernel names {name!r}, which the module does not have")

    @property
    def why_no_outputs(self) -> str:
        """Why there are no outputs for these filters."""
        return self.kernel.outputs if self.kernel is not None and isinstance(self.kernel.outputs, str) else ""

    def __reduce__(self) -> Any:
        if self.kernel is None:
            return Part, (self.module, self.key, None, self.outputs)
        return _find, (self.module, self.key)  # a registered function of a user's own need not be picklable


def parts_of(module: nn.Module) -> dict[str, Part]:
    """Return the parts of a module by their name in it, those on request included; none where it holds no filters."""
    return {key: Part.of(module, key, kernel) for key, kernel in kernels_of(module).items()}


def part_of(layer: nn.Module | Part) -> Part:
    """Return the part that a module is: the one with a single set of filters.

    Raises:
        ConfigurationError: for a module without filters, or with several sets of them.
    """
    if isinstance(layer, Part):
        return layer
    parts = parts_of(layer)
    usual = {key: part for key, part in parts.items() if part.kernel is not None and not part.kernel.on_request}
    if len(usual) != 1:
        kind = type(layer).__name__
        known = f"has several: choose one of {', '.join(map(repr, parts))} from parts_of(layer)"
        raise ConfigurationError(
            f"{kind} {known if parts else 'holds no filters that are known here: register it with layers.register'}"
        )
    return next(iter(usual.values()))


def _find(module: nn.Module, key: str) -> Part:
    return parts_of(module)[key]
