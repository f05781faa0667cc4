"""Validates on two processes with WhiteningCallback and saves what each ends with; run by test_ddp.py."""

import sys

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from ortho_lightning import WhiteningCallback


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.encoder = nn.Linear(5, 4)
        self.double()

    def training_step(self, batch, batch_idx):
        return self.encoder(batch).square().mean()

    def validation_step(self, batch, batch_idx):
        self.encoder(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(rows):
    x = torch.randn(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 100
    return torch.utils.data.DataLoader(x, batch_size=4)


def fit(rows, devices):
    callback = WhiteningCallback("encoder", 3)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if devices == 1 else "ddp",
        max_epochs=1,
        precision="64-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(Net(), loader(rows), loader(rows))
    return trainer, callback


if __name__ == "__main__":
    target, rows = sys.argv[1], int(sys.argv[2])
    trainer, callback = fit(rows, devices=2)
    metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
    torch.save({"state": dict(callback.whitening.state_dict()), "metrics": metrics}, f"{target}.{trainer.global_rank}")
