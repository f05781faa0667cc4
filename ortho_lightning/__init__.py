"""Ortho Lightning: directions that do not repeat each other."""

from ortho_lightning.callbacks import OrthogonalityCallback

__all__ = ["OrthogonalityCallback"]
