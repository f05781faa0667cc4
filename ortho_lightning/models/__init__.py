"""Models of the experiments."""

from ortho_lightning.models.classifier import Classifier
from ortho_lightning.models.networks import SmallCNN, resnet18_cifar
from ortho_lightning.models.optimizers import KernelOptimizer, Muon
from ortho_lightning.models.pointnet import PointNet

__all__ = ["Classifier", "KernelOptimizer", "Muon", "PointNet", "SmallCNN", "resnet18_cifar"]
