"""What the data modules share: splits held as tensors, batches without a loader, augmentation on the device."""

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
    """Base class: a subclass fills ``splits`` in ``setup`` and says how a batch is prepared and augmented.

    Args:
        batch_size: rows a batch and process.
        eval_batch_size: rows a batch in validation and test.
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
        """A batch as the network takes it."""
        raise NotImplementedError

    def augmented(self, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        """A training batch changed at random, as a function of (seed, epoch, index); still to be prepared."""
        raise NotImplementedError

    def perturbations(self) -> dict[str, Perturbation]:
        """What can be done to test batches to see what the network depends on, by name; nothing unless a subclass says.

        Each maps ``(x, index)``, before they are prepared, to another x, and is the same in every run.
        """
        return {}

    @contextlib.contextmanager
    def perturbed(self, name: str) -> Iterator[None]:
        """Within the block, test batches come perturbed by ``perturbations()[name]``.

        Raises:
            ConfigurationError: for a name that is not there.
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
                f"batch_size={batch_size} on {world_size} processes: there are only {len(x)} training rows"
            )
        return TensorBatches(x, y, batch_size, shuffle, self.seed, rank, world_size)

    def train_dataloader(self) -> TensorBatches:
        return self._batches("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> TensorBatches:
        return self._batches("val", self.eval_batch_size, shuffle=False)

    def test_dataloader(self) -> TensorBatches:
        return self._batches("test", self.eval_batch_size, shuffle=False)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        x, y, index = batch
        if self.augment and self.trainer is not None and self.trainer.training:
            x = self.augmented(x, index, self.trainer.current_epoch)
        if self._perturbation is not None and self.trainer is not None and self.trainer.testing:
            x = self._perturbation(x, index)
        return self.prepare(x), y
