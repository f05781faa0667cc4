"""Memory of penalties from step to step, by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class PenaltyMemory:
    """Tensors of each layer by name, such as the vector of a power iteration; the callback saves them."""

    def __init__(self) -> None:
        self._by_layer: dict[str, dict[str, Tensor]] = {}

    def of(self, layer: str) -> dict[str, Tensor]:
        """Return the memory of a layer, which its penalty may change."""
        return self._by_layer.setdefault(layer, {})

    def begin(self) -> None:
        """Begin a training anew."""
        self._by_layer.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: nothing where no penalty kept anything."""
        kept = {name: {key: value.clone() for key, value in own.items()} for name, own in self._by_layer.items() if own}
        return {"memory": kept} if kept else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._by_layer = {name: dict(own) for name, own in state.get("memory", {}).items()}
