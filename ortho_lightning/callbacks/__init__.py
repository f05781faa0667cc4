"""The only code that knows Lightning's life cycle."""

from ortho_lightning.callbacks.orthogonality import OrthogonalityCallback
from ortho_lightning.callbacks.suggestion import suggest_weight

__all__ = ["OrthogonalityCallback", "suggest_weight"]
