"""A small network with a body, a norm and a last layer."""

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Small(LightningModule):
    """Classifies eight numbers."""

    def __init__(self, classes, width=8):
        super().__init__()
        self.net = nn.ModuleDict(
            {"body": nn.Linear(8, width), "norm": nn.BatchNorm1d(width), "head": nn.Linear(width, classes)}
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        return nn.functional.cross_entropy(self.net["head"](self.net["norm"](self.net["body"](x)).relu()), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def data(self):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(32, 8, generator=generator)
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 8)
