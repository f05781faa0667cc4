"""Trains arms without a penalty on two processes and saves the weights; run by test_ddp.py as a program of its own."""

import sys

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from ortho_lightning import OrthogonalConstraint
from ortho_lightning.layers.filters import effective_weight
from ortho_lightning.models import Muon


class Net(LightningModule):
    def __init__(self, muon):
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 5))
        self.muon = muon
        self.double()

    def training_step(self, batch, batch_idx):
        batch = batch[self.trainer.global_rank :: self.trainer.world_size]
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        if not self.muon:
            return torch.optim.SGD(self.parameters(), lr=0.5)
        muon = Muon(exclude=["net.0", "net.4"], lr=0.05)
        kernels = muon.kernels(self)
        others = [p for p in self.parameters() if all(p is not kernel for kernel in kernels)]
        return muon.beside(torch.optim.SGD(others, lr=0.5), kernels)


def fit(arm, devices):
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    net = Net(muon=arm == "muon")
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp",
        max_steps=3,
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[] if arm == "muon" else [OrthogonalConstraint(method=arm)],
    )
    trainer.fit(net, torch.utils.data.DataLoader(x.repeat(3, 1, 1, 1), batch_size=8))
    return {f"{i}": effective_weight(net.net[i]).detach() for i in (0, 2, 4)}, trainer.global_rank


if __name__ == "__main__":
    target, arm = sys.argv[1:3]
    weights, rank = fit(arm, devices=2)
    torch.save(weights, f"{target}.{rank}")
