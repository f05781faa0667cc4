"""Trains on two processes and saves what came of it; run by test_ddp.py and test_fsdp.py as a program of its own."""

import sys

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from ortho_lightning import AngleMonitor, GradientShare, OrthogonalityCallback
from ortho_lightning.layers.filters import whole
from ortho_lightning.regularizers import LSH, Gram, srip


class Net(LightningModule):
    def __init__(self, branching):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.side = nn.Linear(16, 3)
        self.head = nn.Linear(64, 5)
        self.branching = branching
        self.double()

    def configure_model(self):
        if self.device_mesh is not None:
            from torch.distributed.fsdp import fully_shard

            for layer in (self.conv, self.side, self.head):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        batch = batch[self.trainer.global_rank :: self.trainer.world_size]
        h = F.relu(self.conv(batch)).flatten(1)
        loss = self.head(h).square().mean()
        if not self.branching or self.trainer.global_rank == 0:
            loss = loss + self.side(h[:, :16]).square().mean()
        return loss

    def on_before_optimizer_step(self, optimizer):
        gradients = {name: p.grad for name, p in self.named_parameters() if p.grad is not None}
        self.found = {name: whole(gradient).clone() for name, gradient in gradients.items()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data():
    """One batch, the same on every process, of which each takes its share."""
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return torch.utils.data.DataLoader(x, batch_size=8)


REGULARIZERS = {
    "lsh": LSH(max_samples=None),
    "detached": LSH(max_samples=None, detach_inputs=True),
    "gram": Gram(),
    "exact": LSH(probe="exact"),
    "gaussian": LSH(probe="gaussian"),
    "srip": srip(),
}


def fit(sync, branching, devices, regularizer="lsh", strategy="ddp", weight=0.5, apply="loss"):
    net = Net(branching)
    every = 1 if strategy == "ddp" and apply == "loss" else None
    callback = OrthogonalityCallback(
        REGULARIZERS[regularizer],
        weight=weight,
        sync=sync,
        log_gradient_ratio_every_n_steps=every,
        monitor=AngleMonitor(spectra_every_n_steps=1),
        apply=apply,
    )
    if strategy == "fsdp2":
        strategy = ModelParallelStrategy(data_parallel_size=devices, tensor_parallel_size=1)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp_find_unused_parameters_true" if strategy == "ddp" else strategy,
        max_steps=1,
        precision="32-true"
        if isinstance(strategy, ModelParallelStrategy)
        else "64-true",  # the module is double anyway
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(net, data())
    net.ratios = {name: value for name, value in trainer.callback_metrics.items() if "gradient_ratio" in name}
    return net, callback


if __name__ == "__main__":
    target, sync, branching, regularizer, strategy, weight, apply = sys.argv[1:8]
    weight = GradientShare(0.1) if weight == "share" else float(weight)
    net, callback = fit(sync, branching == "branching", 2, regularizer, strategy, weight, apply)
    rank = net.trainer.global_rank if net._trainer is not None else 0
    weights = {f"{name} after": whole(p.detach()) for name, p in net.named_parameters()}
    report = callback.angle_report()
    torch.save(
        {
            **net.found,
            **net.ratios,
            **weights,
            "penalty": callback.penalty,
            "report": report,
            "state": callback.state_dict(),
        },
        f"{target}.{rank}",
    )
