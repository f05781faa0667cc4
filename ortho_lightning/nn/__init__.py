"""Modules."""

from ortho_lightning.nn.whitening import Whitening

__all__ = ["Whitening"]
