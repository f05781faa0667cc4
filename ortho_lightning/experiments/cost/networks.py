"""Networks whose training steps are measured."""

from __future__ import annotations

from collections.abc import Callable

import torchvision
from torch import nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.models import PointNet, SmallCNN, resnet18_cifar


def _resnet18(width: int, resolution: int) -> nn.Module:
    if width != 1:
        raise ConfigurationError(
            f"widths={width}: torchvision's ResNet-18 has one width; use small_cnn, vit or resnet50"
        )
    return resnet18_cifar() if resolution <= 64 else torchvision.models.resnet18(num_classes=10)


def _resnet50(width: int, resolution: int) -> nn.Module:
    network = torchvision.models.resnet50(num_classes=10, width_per_group=64 * width)
    if resolution <= 64:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


def _vit(width: int, resolution: int) -> nn.Module:
    size = (resolution, patch_size(resolution))
    return torchvision.models.VisionTransformer(*size, 6, 3, 192 * width, 768 * width, num_classes=10)


def patch_size(resolution: int) -> int:
    """Return the edge of the ViT's patches, in pixels."""
    return 4 if resolution <= 64 else 16


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "small_cnn": lambda width, resolution: SmallCNN(width=32 * width),
    "vit": _vit,
    "pointnet": lambda width, resolution: PointNet(10, width=32 * width),
}


def compared(network: nn.Module) -> Callable[[str, nn.Module], bool]:
    """Select the layers to penalize: convolutions of a convolutional network, else the layers selected by default."""
    convolutions = (nn.Conv1d, nn.Conv2d)
    convolutional = sum(isinstance(module, convolutions) for module in network.modules()) > 2
    kinds = convolutions if convolutional else (*convolutions, nn.Linear)
    return lambda name, module: isinstance(module, kinds)


def unreached(network: nn.Module) -> str | None:
    """Return a pattern for the layers whose forward never runs: attention uses the weight of ``out_proj`` directly."""
    attends = any(isinstance(module, nn.MultiheadAttention) for module in network.modules())
    return "*.out_proj" if attends else None
