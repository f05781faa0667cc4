"""The only code that knows Lightning's life cycle."""

from ortho_lightning.callbacks.orthogonality import OrthogonalityCallback
from ortho_lightning.callbacks.whitening import WhiteningCallback

__all__ = ["OrthogonalityCallback", "WhiteningCallback"]
