"""Data of the experiments."""

from ortho_lightning.data.cifar10 import CIFAR10DataModule
from ortho_lightning.data.digits import DigitsDataModule
from ortho_lightning.data.pointclouds.modelnet import ModelNetDataModule
from ortho_lightning.data.pointclouds.shapes import ShapesDataModule
from ortho_lightning.data.stsb import STSEmbeddings

__all__ = ["CIFAR10DataModule", "DigitsDataModule", "ModelNetDataModule", "STSEmbeddings", "ShapesDataModule"]
