"""Networks for small images."""

from __future__ import annotations

from typing import Literal

import torchvision
from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError


class SmallCNN(nn.Module):
    """A VGG-like network of six convolutions, 0.29 M parameters at width 32, for machines without a GPU.

    Args:
        num_classes: outputs.
        width: channels of the first stage; the others have twice and four times as many.
        in_channels: channels of the images.
        norm: "batch": a batch norm after each convolution; None: convolutions with biases, initialized for ReLU (He et
            al. 2015, fan in), so that the size of the activations does not change from layer to layer.
        dropout: probability with which each of the features that the last layer reads is dropped, in [0, 1).

    Raises:
        ConfigurationError: for a value outside its range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        width: int = 32,
        in_channels: int = 3,
        norm: Literal["batch"] | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if width < 2 or in_channels < 1:
            raise ConfigurationError(
                f"width={width}, in_channels={in_channels}: width must be 2 or more, in_channels 1 or more"
            )
        if norm not in ("batch", None):
            raise ConfigurationError(f"norm={norm!r}: must be 'batch' or None (null on the command line)")
        if not 0 <= dropout < 1:
            raise ConfigurationError(f"dropout={dropout}: must be at least 0 and below 1")
        channels = [width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        blocks = []
        for i, (before, after) in enumerate(zip([in_channels, *channels[:-1]], channels, strict=True)):
            layers = _convolution(before, after, norm)
            if i in (1, 3):
                layers.append(nn.MaxPool2d(2))
            blocks.append(nn.Sequential(*layers))
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, num_classes)`` of images ``(B, in_channels, H, W)``."""
        return self.head(self.dropout(self.blocks(x).mean((2, 3))))


def _convolution(before: int, after: int, norm: str | None) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=norm is None)
    if norm is not None:
        return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return [convolution, nn.ReLU(inplace=True)]


def resnet18_cifar(num_classes: int = 10) -> nn.Module:
    """Return torchvision's ResNet-18 with a stem for small images: a 3 x 3 convolution of stride 1, no pooling."""
    network = torchvision.models.resnet18(weights=None, num_classes=num_classes)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
