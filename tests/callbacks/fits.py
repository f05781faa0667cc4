"""A module that checks every training step by hand, and things to do in the middle of its fit."""

from __future__ import annotations

import importlib

import torch
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import Gram
from tests.callbacks.helpers import PACKAGES, boring

WEIGHT = 0.01


class Recorded:
    """Keeps whether the loss of each training step holds the penalty, computed by hand, and its value by step."""

    lr = 0.01
    batch_size = 2

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 4)
        self.steps = []
        self.penalties = {}
        self.task = None

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).square().mean()
        self.task = loss.detach()
        return loss

    def on_before_backward(self, loss):
        penalty = OF.gram_penalty(self.layer.weight.unsqueeze(0)).detach()
        expected = self.task + WEIGHT * penalty
        plain, penalized = torch.isclose(loss, self.task, rtol=1e-6), torch.isclose(loss, expected, rtol=1e-6)
        assert bool(plain) != bool(penalized)
        self.steps.append(bool(penalized))
        # by the x axis of Lightning's own metrics, which is not global_step after a finder has run
        self.penalties[self.trainer.fit_loop.epoch_loop._batches_that_stepped] = penalty.item()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=self.batch_size)


class RecordedPytorchLightning(Recorded, boring("pytorch_lightning").BoringModel):  # at module level, for pickle
    pass


class RecordedLightning(Recorded, boring("lightning.pytorch").BoringModel):
    pass


KINDS = dict(zip(PACKAGES, (RecordedPytorchLightning, RecordedLightning), strict=True))


def recorded_module(package, **methods):
    kind = KINDS[package]
    return (type("Extended", (kind,), methods) if methods else kind)()


def ours(**options):
    return OrthogonalityCallback(Gram(), weight=WEIGHT, log_every_n_steps=1, **options)


def callback_of(package, hook, run):
    """A callback that does ``run(trainer, module)`` once, in the hook, at the first chance from the third batch on."""
    base = importlib.import_module(package).Callback

    class Once(base):
        done = False

    def called(self, trainer, pl_module, *args, **kwargs):
        in_batch = any(word in hook for word in ("batch", "backward", "optimizer", "zero_grad"))
        if not self.done and (trainer.global_step >= 2 or not in_batch):
            self.done = True
            run(trainer, pl_module)

    setattr(Once, hook, called)
    return Once()


def lr_find(trainer, module):
    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    finder = importlib.import_module(f"{package}.tuner.lr_finder")
    finder._lr_find(trainer, module, num_training=4, early_stop_threshold=None)


def kept_logger(package, folder):
    class Kept(importlib.import_module(f"{package}.loggers").CSVLogger):
        """Keeps what it is given, by step."""

        def __init__(self):
            super().__init__(folder)
            self.rows = []

        def log_metrics(self, metrics, step=None):
            self.rows.append((step, dict(metrics)))

    return Kept()


def assert_untouched(module):
    assert not {"training_step", "manual_backward", "teardown"} & set(module.__dict__)
    assert all(not part._forward_hooks for part in module.modules())
