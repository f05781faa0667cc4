"""A penalty between two sets of filters as a regularizer: those of a layer, and those of an anchor that stays."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.functional.cross import CrossNorm, check_cross_norm
from ortho_lightning.layers import layer_filters, parts_of
from ortho_lightning.regularizers.base import Regularizer
from ortho_lightning.regularizers.view import LayerView


class Anchored(Regularizer):
    """:func:`~ortho_lightning.functional.cross_gram_penalty` between each layer's filters and those of its anchor.

    With the adapters of earlier tasks as the anchor of a new one it is O-LoRA's penalty: ``layers="*:A.new"`` and
    ``Anchored("A.old")``, weight 0.5.

    Args:
        anchor: a pattern for parts of the layer's own module, ``"A.task*"``, without the layer itself; or a tensor
            ``(groups, m, d)`` by the name of the layer. It gets no gradient.
        norm: "l1" (the code of O-LoRA) or "fro" (squares, as in its article).

    Raises:
        ConfigurationError: for an unknown norm, or an anchor of another kind; in training for a layer without anchor.
    """

    def __init__(self, anchor: str | Mapping[str, Tensor], norm: CrossNorm = "l1") -> None:
        check_cross_norm(norm)
        if not isinstance(anchor, str | Mapping):
            raise ConfigurationError(
                f"anchor={anchor!r}: give a pattern for parts, or tensors by the name of the layer"
            )
        self.anchor = anchor
        self.norm = norm

    def __repr__(self) -> str:
        shown = repr(self.anchor) if isinstance(self.anchor, str) else f"<{len(self.anchor)} tensors>"
        return f"Anchored({shown}, norm={self.norm!r})"

    def penalty(self, layer: LayerView) -> Tensor:
        """Return the penalty of one layer, added over its groups."""
        return OF.cross_gram_penalty(layer.filters, self._anchor_of(layer), self.norm)

    def _anchor_of(self, layer: LayerView) -> Tensor:
        if isinstance(self.anchor, Mapping):
            if layer.name not in self.anchor:
                known = ", ".join(map(repr, self.anchor))
                raise ConfigurationError(f"layer {layer.name!r} has no anchor: anchor= has tensors for {known}")
            return self.anchor[layer.name]
        assert layer.module is not None
        parts = parts_of(layer.module)
        own = layer.name.rpartition(":")[2] if ":" in layer.name else ""
        wanted = [part for key, part in parts.items() if key != own and fnmatchcase(key, self.anchor)]
        if not wanted:
            known = ", ".join(map(repr, parts))
            raise ConfigurationError(f"anchor={self.anchor!r}: layer {layer.name!r} is of a module with parts {known}")
        with torch.no_grad():
            return torch.cat([layer_filters(part) for part in wanted], dim=1)
