"""Trains one step on two processes and saves the gradient; run by test_ddp.py as a program of its own."""

import sys

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.regularizers import LSH


class Net(LightningModule):
    def __init__(self, branching):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.side = nn.Linear(16, 3)
        self.head = nn.Linear(64, 5)
        self.branching = branching
        self.double()

    def training_step(self, batch, batch_idx):
        batch = batch[self.trainer.global_rank :: self.trainer.world_size]
        h = F.relu(self.conv(batch)).flatten(1)
        loss = self.head(h).square().mean()
        if not self.branching or self.trainer.global_rank == 0:
            loss = loss + self.side(h[:, :16]).square().mean()
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.found = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data():
    """One batch, the same on every process, of which each takes its share."""
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return torch.utils.data.DataLoader(x, batch_size=8)


def fit(sync, branching, devices, regularizer=None):
    net = Net(branching)
    callback = OrthogonalityCallback(regularizer or LSH(max_samples=None), weight=0.5, sync=sync)
    strategy = "auto" if devices == 1 else "ddp_find_unused_parameters_true"
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=strategy,
        max_steps=1,
        precision="64-true",
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(net, data())
    return net, callback


if __name__ == "__main__":
    target, sync, branching = sys.argv[1:4]
    net, callback = fit(sync, branching == "branching", devices=2)
    rank = net.trainer.global_rank if net._trainer is not None else 0
    torch.save({**net.found, "penalty": callback.penalty}, f"{target}.{rank}")
