"""Models of the experiments."""

from ortho_lightning.models.classifier import Classifier
from ortho_lightning.models.networks import SmallCNN, resnet18_cifar
from ortho_lightning.models.pointnet import PointNet

__all__ = ["Classifier", "PointNet", "SmallCNN", "resnet18_cifar"]
