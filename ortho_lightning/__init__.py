"""Ortho Lightning: directions that do not repeat each other."""

from ortho_lightning.callbacks import OrthogonalityCallback, suggest_weight

__all__ = ["OrthogonalityCallback", "suggest_weight"]
