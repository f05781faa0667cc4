"""Small modules and Trainers for the callback's tests, for either package name of Lightning."""

from __future__ import annotations

import copy
import functools
import importlib

import torch
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import LSH, LayerView

PACKAGES = ("pytorch_lightning", "lightning.pytorch")
ALL_ROWS = LSH(max_samples=None)
lsh_penalty = functools.partial(OF.lsh_penalty, lambda1=0.0)  # the formula of LSH()


def boring(package="pytorch_lightning"):
    return importlib.import_module(f"{package}.demos.boring_classes")


def make_trainer(callbacks=(), package="pytorch_lightning", **options):
    settings = {
        "max_steps": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        **options,
    }
    if isinstance(callbacks, (AngleMonitor, OrthogonalityCallback)):
        callbacks = [callbacks]
    return importlib.import_module(package).Trainer(callbacks=list(callbacks), **settings)


def vision_module(package="pytorch_lightning", inplace=True, output="tensor", bias=True):
    """A module around a small CNN whose training_step returns a tensor, a dict or None."""
    base = importlib.import_module(package).LightningModule

    class Vision(base):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Conv2d(3, 6, 3, padding=1, bias=bias),
                nn.ReLU(inplace=inplace),
                nn.Conv2d(6, 8, 3, groups=2),
                nn.BatchNorm2d(8),
                nn.Flatten(),
                nn.Dropout(0.2),
                nn.Linear(8 * 36, 5),
            )
            self.gradients = None

        def loss(self, batch):
            return self.net(batch[0]).square().mean()

        def training_step(self, batch, batch_idx):
            loss = self.loss(batch)
            if output == "none":
                return None
            return {"loss": loss, "extra": loss.detach()} if output == "dict" else loss

        def validation_step(self, batch, batch_idx):
            return self.training_step(batch, batch_idx)

        def on_after_backward(self):
            self.gradients = [p.grad if p.grad is None else p.grad.clone() for p in self.parameters()]

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    torch.manual_seed(1)
    return Vision()


def images(count=4, batch_size=4, seed=5):
    x = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=batch_size)


def twin(module):
    """A copy to compute the reference with."""
    return copy.deepcopy(module)


def view_of(layer, output, seed=0):
    return LayerView(filters=layer.weight.unsqueeze(0), outputs=(output - layer.bias).unsqueeze(0), seed=seed)


def recording(network, loss, package="pytorch_lightning"):
    """A module that trains ``network``, its ``net``, on ``loss(network)`` and keeps the gradients of the last step."""

    class Recording(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = None
            self.net = network
            self.gradients = {}

        def training_step(self, batch, batch_idx):
            return loss(self.net)

        def on_after_backward(self):
            self.gradients = {name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Recording()
