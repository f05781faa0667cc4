"""Callbacks: the only code that knows Lightning's life cycle."""

from ortho_lightning.callbacks.angle_monitor import AngleMonitor
from ortho_lightning.callbacks.constraint import OrthogonalConstraint
from ortho_lightning.callbacks.orthogonality import OrthogonalityCallback
from ortho_lightning.callbacks.suggestion import suggest_weight
from ortho_lightning.callbacks.whitening import WhiteningCallback

__all__ = ["AngleMonitor", "OrthogonalConstraint", "OrthogonalityCallback", "WhiteningCallback", "suggest_weight"]
