"""Batches of tensors in memory: one indexing operation a batch instead of a Python call a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ortho_lightning.random import mix


class TensorBatches:
    """An iterable of ``(x, y, index)`` batches whose order is a function of (seed, epoch) alone.

    Lightning sets the epoch through ``sampler.set_epoch`` and saves the position in the epoch through ``state_dict``,
    so that a resumed training continues with the batch that would have been next.

    Args:
        x: ``(N, ...)`` inputs.
        y: ``(N,)`` labels.
        batch_size: samples a batch and process.
        shuffle: use a new order every epoch and drop the last incomplete batch, as in training.
        seed: of the order.
        rank: number of this process under DDP.
        world_size: number of processes; each takes every world_size-th sample of the common order.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.x = x
        self.y = y
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._position = 0  # number of batches returned in this epoch
        self._resume_at = 0  # first batch of the next epoch, used once

    batch_sampler = None  # Lightning reads it from every loader with a sampler

    @property
    def sampler(self) -> TensorBatches:
        """The loader itself; Lightning calls ``set_epoch`` on it."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which selects the order."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return len(self.x) // (self.batch_size * self.world_size)
        share = len(range(self.rank, len(self.x), self.world_size))
        return -(-share // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        first, self._resume_at = self._resume_at % max(len(self), 1), 0
        self._position = first
        order = self._order()
        for batch in range(first, len(self)):
            index = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            self._position = batch + 1
            yield self.x[index], self.y[index], index

    def _order(self) -> Tensor:
        if not self.shuffle:
            return torch.arange(self.rank, len(self.x), self.world_size)
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        return torch.randperm(len(self.x), generator=generator)[self.rank :: self.world_size]

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the epoch."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the next epoch at a saved position."""
        self._resume_at = state["position"]
