"""What the experiments train on."""

from ortho_lightning.data.cifar10 import CIFAR10DataModule
from ortho_lightning.data.shapes import ShapesDataModule

__all__ = ["CIFAR10DataModule", "ShapesDataModule"]
