"""A classifier around any network: cross-entropy, accuracy, optimizer and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.constraint import constrained_parameters
from ortho_lightning.models.optimizers import Muon


class Classifier(LightningModule):
    """A network trained with cross-entropy.

    Args:
        net: maps inputs to logits ``(B, num_classes)``, or to ``(logits, penalty)`` with a penalty of its own.
        num_classes: number of classes.
        optimizer: creates an optimizer from parameters, such as a partial ``torch.optim.SGD``.
        schedule: "onecycle", "cosine" or "constant" learning rate over the whole training, changed every step.
        warmup: share of the training in which the one-cycle schedule rises.
        label_smoothing: in [0, 1).
        decay_norms: whether weight decay also acts on biases and norm layers.
        kernel_optimizer: trains the kernels of hidden layers in place of ``optimizer``; None: that trains all.
        channels_last: use this memory layout for images and kernels, faster for convolutions. Other inputs keep theirs.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
        schedule: Literal["onecycle", "cosine", "constant"] = "onecycle",
        warmup: float = 0.3,
        label_smoothing: float = 0.0,
        decay_norms: bool = False,
        channels_last: bool = False,
        kernel_optimizer: Muon | None = None,
    ) -> None:
        super().__init__()
        if schedule not in ("onecycle", "cosine", "constant"):
            raise ConfigurationError(f"schedule={schedule!r}: must be 'onecycle', 'cosine' or 'constant'")
        if not 0 < warmup < 1:
            raise ConfigurationError(f"warmup={warmup}: must be between 0 and 1")
        if not 0 <= label_smoothing < 1:
            raise ConfigurationError(f"label_smoothing={label_smoothing}: must be at least 0 and below 1")
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=layout)
        self.layout = layout
        self.make_optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.label_smoothing = label_smoothing
        self.decay_norms = decay_norms
        self.kernel_optimizer = kernel_optimizer
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, x: Tensor) -> Any:
        """Return the output of the network."""
        return self.net(x)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
        x, y = batch
        output = self.net(x.contiguous(memory_format=self.layout) if x.dim() == 4 else x)
        logits, penalty = output if isinstance(output, tuple) else (output, 0.0)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing) + penalty
        accuracy: Any = getattr(self, f"{stage}_accuracy")
        accuracy.update(logits, y)
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": len(y)}
        self.log(f"{stage}/loss", loss.detach(), sync_dist=stage != "train", **options)
        self.log(f"{stage}/accuracy", accuracy, prog_bar=True, **options)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss; log it and the accuracy."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._step(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy."""
        self._step(batch, "test")

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule."""
        kernels = [] if self.kernel_optimizer is None else self.kernel_optimizer.kernels(self)
        optimizer = self.make_optimizer(self._groups(kernels))
        if self.kernel_optimizer is not None:
            optimizer = self.kernel_optimizer.beside(optimizer, kernels)
        if self.schedule == "constant":
            return optimizer
        shape = partial(one_cycle, warmup=self.warmup) if self.schedule == "onecycle" else cosine

        # A function of the step and of this Trainer's total, so that a training can be resumed with more epochs:
        # OneCycleLR restores the old total from the checkpoint and raises beyond it. The total is read lazily: reading
        # it here would set up the loader before its position in the epoch is restored.
        def factor(step: int) -> float:
            return shape(0.0 if step == 0 else min(step / self.trainer.estimated_stepping_batches, 1.0))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _groups(self, left_out: Sequence[Tensor]) -> list[dict[str, Any]]:
        """The parameters with weight decay and those without: biases, norms, and filters of a fixed length."""
        kept = {id(p) for p in left_out}
        fixed = {id(p) for p in constrained_parameters(self.net)}
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for p in self.net.parameters():
            if id(p) not in kept:
                (decayed if (self.decay_norms or p.dim() > 1) and id(p) not in fixed else others).append(p)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


def cosine(progress: float) -> float:
    """Return half a cosine, from 1 at progress 0 to 0 at progress 1."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float, warmup: float, start: float = 1 / 25, end: float = 4e-6) -> float:
    """Return the one-cycle factor (Smith and Topin 2018): ``start`` up to 1 during ``warmup``, then down to ``end``."""
    if progress < warmup:
        return 1 + (start - 1) * cosine(progress / warmup)
    return end + (1 - end) * cosine((progress - warmup) / (1 - warmup))
