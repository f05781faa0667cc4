"""Ortho Lightning: penalties and measurements against redundant filters, and whitening of embeddings."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from ortho_lightning import functional, regularizers, schedules
from ortho_lightning.callbacks import (
    AngleMonitor,
    OrthogonalConstraint,
    OrthogonalityCallback,
    WhiteningCallback,
    suggest_weight,
)
from ortho_lightning.nn import Whitening
from ortho_lightning.regularizers import LSH, Gram
from ortho_lightning.weights import GradientShare

try:
    __version__ = _version("ortho-lightning")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "0+unknown"

__all__ = [
    "LSH",
    "AngleMonitor",
    "GradientShare",
    "Gram",
    "OrthogonalConstraint",
    "OrthogonalityCallback",
    "Whitening",
    "WhiteningCallback",
    "__version__",
    "functional",
    "regularizers",
    "schedules",
    "suggest_weight",
]
