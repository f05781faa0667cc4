"""What is kept of the vectors that pass through a layer: their moments, not themselves."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DistributedSampler

from ortho_lightning import functional as OF

# Vectors kept, evenly spaced over all, to measure what only the finished whitening can tell: between this and twice it.
_SAMPLE = 1024


class Gathering:
    """Moments, sum of the unit vectors and an evenly spaced sample of at most 2048 of the rows added."""

    def __init__(self) -> None:
        self.moments: OF.Moments | None = None
        self.dtype = torch.float32
        """float64 if the vectors were."""
        self.units: Tensor | None = None
        self.unit_count = 0
        self.failure: str | None = None
        """What was wrong with the first rows that could not be added."""
        self._sample: Tensor | None = None
        self._stride = 1
        self._seen = 0

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Add vectors ``(n, d)``; what cannot be added is remembered as :attr:`failure`, and training goes on."""
        if self.failure is not None or len(rows) == 0:
            return
        rows = rows.detach()
        try:
            moments = OF.Moments.of(rows, first_row=self._seen)
            self.moments = moments if self.moments is None else self.moments.merge(moments)
        except ValueError as error:
            self.failure = str(error)
            return
        units, count = OF.unit_sum(rows.to(moments.mean.device))
        self.units = units if self.units is None else self.units + units
        self.unit_count += count
        self.dtype = torch.promote_types(rows.dtype, torch.float32)
        self._keep_some(rows)

    def _keep_some(self, rows: Tensor) -> None:
        picked = rows[(-self._seen) % self._stride :: self._stride].to(self.dtype)
        self._seen += len(rows)
        self._sample = picked.clone() if self._sample is None else torch.cat([self._sample, picked])
        while len(self._sample) > 2 * _SAMPLE:
            self._sample = self._sample[::2].clone()
            self._stride *= 2

    def join(self, device: torch.device) -> None:
        """Under DDP: make moments, units and failure those of all processes together, the same in each."""
        if not _several_processes():
            return
        head = torch.tensor([0 if self.moments is None else self.moments.d, self.failure is not None], device=device)
        dist.all_reduce(head, op=dist.ReduceOp.MAX)
        d, failed = head.tolist()
        if failed:
            self.failure = self.failure or "another process could not add its vectors"
        if failed or d == 0:
            return
        here = OF.Moments.empty(d, device) if self.moments is None else self.moments.to(device)
        units = torch.zeros(d, dtype=torch.float64, device=device) if self.units is None else self.units.to(device)
        firsts = torch.cat([here.mean.new_tensor([here.count, self.unit_count]), here.mean * here.count, units])
        dist.all_reduce(firsts)
        count = int(firsts[0])
        mean = firsts[2 : 2 + d] / max(count, 1)
        delta = here.mean - mean
        scatter = here.scatter + here.count * torch.outer(delta, delta)  # Chan's formula, about the joined mean
        dist.all_reduce(scatter)
        self.moments = OF.Moments(count, mean, scatter)
        self.units, self.unit_count = firsts[2 + d :], int(firsts[1])

    def mean_cosine(self) -> float:
        """Mean cosine between two of the vectors."""
        return float("nan") if self.units is None else OF.mean_cosine(self.units, self.unit_count)

    @torch.no_grad()
    def mean_cosine_after(self, whiten: Any, device: torch.device) -> float:
        """Mean cosine between two of the sampled vectors after ``whiten``; of the samples of all processes together."""
        assert self.moments is not None
        total, count = torch.zeros(0, dtype=torch.float64, device=device), 0
        if self._sample is not None:
            total, count = OF.unit_sum(whiten(self._sample.to(self.moments.mean.device)).to(device))
        if _several_processes():
            width = torch.tensor(len(total), device=device)
            dist.all_reduce(width, op=dist.ReduceOp.MAX)
            both = torch.zeros(int(width) + 1, dtype=torch.float64, device=device)
            both[: len(total)] = total
            both[-1] = count
            dist.all_reduce(both)
            total, count = both[:-1], int(both[-1])
        return OF.mean_cosine(total, count)


def _several_processes() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def genuine_rows(loader: Any, batch_idx: int) -> tuple[int, int] | None:
    """How many rows of this process's batch are its own, and how many it has; None where all are.

    A DistributedSampler repeats the first rows of the data at its end, so that every process gets as many.
    """
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or loader.batch_size is None:
        return None
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    first = batch_idx * loader.batch_size
    size = min(loader.batch_size, sampler.num_samples - first)
    return (max(own - first, 0), size) if own < first + size else None
