"""PointNet for classification (Qi et al., CVPR 2017)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError


def _shared_mlp(*widths: int) -> nn.Sequential:
    """One perceptron applied to every point: convolutions of size 1 with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv1d(before, after, 1, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class TransformNet(nn.Module):
    """T-net: predicts a k x k matrix from a cloud; initially the identity.

    Args:
        k: size of the matrix, and channels of the cloud.
        width: channels of the first layer.
    """

    def __init__(self, k: int, width: int) -> None:
        super().__init__()
        self.k = k
        self.points = _shared_mlp(k, width, 2 * width, 16 * width)
        self.cloud = _mlp(16 * width, 8 * width, 4 * width)
        self.matrix = nn.Linear(4 * width, k * k)
        nn.init.zeros_(self.matrix.weight)
        with torch.no_grad():
            self.matrix.bias.copy_(torch.eye(k).flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Return matrices ``(B, k, k)`` of clouds ``(B, k, points)``."""
        return self.matrix(self.cloud(self.points(x).amax(-1))).view(-1, self.k, self.k)


class PointNet(nn.Module):
    """PointNet for classification: maps clouds ``(B, 3, points)`` to logits.

    Args:
        num_classes: outputs.
        width: channels of the first layers; 64 in the paper, whose global feature has 16 times as many.
        input_transform: align the points by a 3 x 3 T-net.
        feature_transform: align the features by a second T-net.
        transform_penalty: weight of ``|A A^T - I|_F^2 / 2`` of the feature T-net's matrices, summed over the batch as
            in the authors' code, whose weight is 0.001; so it grows with the batch: at 32 samples 0.001 is 0.016 times
            the mean of ``|A A^T - I|_F^2``. When above 0, ``forward`` in training returns ``(logits, penalty)``.
        dropout: before the last layer; 0.3 in the paper.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 64,
        input_transform: bool = True,
        feature_transform: bool = False,
        transform_penalty: float = 0.0,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if width < 2:
            raise ConfigurationError(f"width={width}: must be 2 or more")
        if transform_penalty < 0 or (transform_penalty > 0 and not feature_transform):
            raise ConfigurationError(
                f"transform_penalty={transform_penalty}: must be 0, or positive with feature_transform=True"
            )
        self.input_transform = TransformNet(3, width) if input_transform else None
        self.feature_transform = TransformNet(width, width) if feature_transform else None
        self.transform_penalty = transform_penalty
        self.local = _shared_mlp(3, width, width)
        self.points = _shared_mlp(width, width, 2 * width, 16 * width)
        self.cloud = _mlp(16 * width, 8 * width, 4 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits, with the penalty of the feature transform if there is one."""
        if self.input_transform is not None:
            x = self.input_transform(x).mT @ x
        x = self.local(x)
        penalty = None
        if self.feature_transform is not None:
            matrix = self.feature_transform(x)
            x = matrix.mT @ x
            if self.training and self.transform_penalty > 0:
                distance = matrix @ matrix.mT - torch.eye(matrix.shape[-1], device=x.device)
                penalty = self.transform_penalty * distance.square().sum() / 2
        logits = self.head(self.dropout(self.cloud(self.points(x).amax(-1))))
        return logits if penalty is None else (logits, penalty)
