"""Cases of the benchmark: one network on one size of batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cost.networks import NETWORKS, patch_size


@dataclass(frozen=True)
class Case:
    """One network on one size of batch.

    Attributes:
        network: one of :data:`~ortho_lightning.experiments.cost.networks.NETWORKS`.
        batch_size: samples a batch.
        resolution: pixels a side. PointNet always has 1024 points.
        width: factor of the network's width.
    """

    network: str
    batch_size: int
    resolution: int
    width: int

    def check(self) -> None:
        """Reject a case that cannot be built, before anything is measured.

        Raises:
            ConfigurationError: naming the value.
        """
        if self.network not in NETWORKS:
            raise ConfigurationError(f"networks={self.network!r}: there are {sorted(NETWORKS)}")
        for key in ("batch_size", "resolution", "width"):
            if getattr(self, key) < 1:
                raise ConfigurationError(f"{key}={getattr(self, key)}: must be 1 or more")
        if self.network == "resnet18" and self.width != 1:
            raise ConfigurationError(f"widths={self.width}: torchvision's ResNet-18 has one width; take small_cnn")
        if self.network == "vit" and self.resolution % patch_size(self.resolution):
            raise ConfigurationError(f"resolutions={self.resolution}: must be a multiple of the ViT's patches")

    def make(self) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """Return the network and a batch, the same ones each time."""
        generator = torch.Generator().manual_seed(0)
        shape = (3, 1024) if self.network == "pointnet" else (3, self.resolution, self.resolution)
        x = torch.randn(self.batch_size, *shape, generator=generator)
        y = torch.randint(10, (self.batch_size,), generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return NETWORKS[self.network](self.width, self.resolution), (x, y)
