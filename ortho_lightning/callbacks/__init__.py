"""The only code that knows Lightning's life cycle."""

from ortho_lightning.callbacks.orthogonality import OrthogonalityCallback

__all__ = ["OrthogonalityCallback"]
