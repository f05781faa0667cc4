"""Base class of the data modules: splits held as tensors, batches without a loader, augmentation on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from pytorch_lightning import LightningDataModule
from torch import Tensor

from ortho_lightning.data.batches import TensorBatches
from ortho_lightning.data.pointclouds.perturbations import Perturbation
from ortho_lightning.errors import ConfigurationError

Split = tuple[Tensor, Tensor]


class TensorDataModule(LightningDataModule):
    """Base class; a subclass fills ``splits`` in ``setup`` and defines how a batch is prepared and augmented.

    Args:
        batch_size: samples a batch and process.
        eval_batch_size: samples a batch in validation and test.
        seed: of the order and the augmentation.
        augment: whether training batches are augmented.
    """

    def __init__(self, batch_size: int, eval_batch_size: int, seed: int, augment: bool) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise ConfigurationError(f"{name}={value}: must be 1 or more")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.augment = augment
        self.splits: dict[str, Split] = {}
        self._perturbation: Perturbation | None = None

    def prepare(self, x: Tensor) -> Tensor:
        """Convert a batch to the input of the network."""
        raise NotImplementedError

    def augmented(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Augment a training batch, as a function of (seed, epoch, index), before it is prepared."""
        raise NotImplementedError

    def perturbations(self) -> dict[str, Perturbation]:
        """Return perturbations of test batches by name, to measure robustness; none by default.

        Each maps ``(x, index)``, before they are prepared, to another x, and is the same in every run.
        """
        return {}

    @contextlib.contextmanager
    def perturbed(self, name: str) -> Iterator[None]:
        """Perturb test batches by ``perturbations()[name]`` within the block.

        Raises:
            ConfigurationError: for an unknown name.
        """
        known = self.perturbations()
        if name not in known:
            raise ConfigurationError(f"no perturbation {name!r}: {type(self).__name__} has {sorted(known)}")
        before, self._perturbation = self._perturbation, known[name]
        try:
            yield
        finally:
            self._perturbation = before

    def _batches(self, split: str, batch_size: int, shuffle: bool) -> TensorBatches:
        x, y = self.splits[split]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if shuffle and len(x) < batch_size * world_size:
            raise ConfigurationError(
                f"batch_size={batch_size} on {world_size} processes: there are only {len(x)} training samples"
            )
        return TensorBatches(x, y, batch_size, shuffle, self.seed, rank, world_size)

    def train_dataloader(self) -> TensorBatches:
        """Return the training batches, in a new order each epoch."""
        return self._batches("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorBatches:
        """Return the validation batches."""
        return self._batches("val", self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> TensorBatches:
        """Return the test batches."""
        return self._batches("test", self.eval_batch_size, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Augment or perturb a batch, and prepare it."""
        x, y, index = batch
        if self.augment and self.trainer is not None and self.trainer.training:
            x = self.augmented(x, index, self.trainer.current_epoch)
        if self._perturbation is not None and self.trainer is not None and self.trainer.testing:
            x = self._perturbation(x, index)
        return self.prepare(x), y
