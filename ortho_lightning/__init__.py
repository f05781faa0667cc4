"""Ortho Lightning: directions that do not repeat each other."""

from ortho_lightning.callbacks import OrthogonalityCallback, WhiteningCallback, suggest_weight
from ortho_lightning.nn import Whitening

__all__ = ["OrthogonalityCallback", "Whitening", "WhiteningCallback", "suggest_weight"]
