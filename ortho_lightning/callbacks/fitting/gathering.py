"""Running statistics of the vectors that pass through a layer; the vectors themselves are not kept."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ortho_lightning import functional as OF
from ortho_lightning.distributed import world_size
from ortho_lightning.nn.joining import joined_moments

# Size of the evenly spaced sample, from this to twice it; the cosines after whitening are measured on it.
_SAMPLE_SIZE = 1024


class Gathering:
    """Moments, sum of the unit vectors and an evenly spaced sample of at most 2048 of the added vectors.

    Attributes:
        moments: of all vectors added; None before the first.
        dtype: float64 if the vectors were, else float32.
        units: sum of the unit vectors.
        unit_count: number of vectors in ``units``, those of length 0 left out.
        failure: the error message for the first vectors that could not be added.
    """

    def __init__(self) -> None:
        self.moments: OF.Moments | None = None
        self.dtype = torch.float32
        self.units: Tensor | None = None
        self.unit_count = 0
        self.failure: str | None = None
        self._sample: Tensor | None = None
        self._stride = 1
        self._seen = 0

    @torch.no_grad()
    def add(self, vectors: Tensor) -> None:
        """Add vectors ``(n, d)``; an error is stored as :attr:`failure`, so that training continues."""
        if self.failure is not None or len(vectors) == 0:
            return
        vectors = vectors.detach()
        try:
            moments = OF.Moments.of(vectors, self._seen)
            self.moments = moments if self.moments is None else self.moments.merge(moments)
        except ValueError as error:
            self.failure = str(error)
            return
        units, count = OF.unit_sum(vectors.to(moments.mean.device))
        self.units = units if self.units is None else self.units + units
        self.unit_count += count
        self.dtype = torch.promote_types(vectors.dtype, torch.float32)
        self._extend_sample(vectors)

    def _extend_sample(self, vectors: Tensor) -> None:
        picked = vectors[(-self._seen) % self._stride :: self._stride].to(self.dtype)
        self._seen += len(vectors)
        self._sample = picked.clone() if self._sample is None else torch.cat([self._sample, picked])
        while len(self._sample) > 2 * _SAMPLE_SIZE:
            self._sample = self._sample[::2].clone()
            self._stride *= 2

    def join(self, device: torch.device) -> None:
        """Combine moments, units and failure of all processes, with the same result in each."""
        if world_size() == 1:
            return
        head = torch.tensor([0 if self.moments is None else self.moments.d, self.failure is not None], device=device)
        dist.all_reduce(head, op=dist.ReduceOp.MAX)
        d, failed = head.tolist()
        if failed:
            self.failure = self.failure or "another process could not add its vectors"
        if failed or d == 0:
            return
        here = OF.Moments.empty(d, device) if self.moments is None else self.moments.to(device)
        self.moments = joined_moments(here)
        units = torch.zeros(d + 1, dtype=torch.float64, device=device)
        if self.units is not None:
            units[:-1], units[-1] = self.units, self.unit_count
        dist.all_reduce(units)
        self.units, self.unit_count = units[:-1], int(units[-1])

    def mean_cosine(self) -> float:
        """Return the mean cosine between two of the vectors."""
        return float("nan") if self.units is None else OF.mean_cosine(self.units, self.unit_count)

    @torch.no_grad()
    def mean_cosine_after(self, whiten: Any, device: torch.device) -> float:
        """Return the mean cosine between two sampled vectors after ``whiten``, over all processes."""
        assert self.moments is not None
        total, count = torch.zeros(0, dtype=torch.float64, device=device), 0
        if self._sample is not None:
            total, count = OF.unit_sum(whiten(self._sample.to(self.moments.mean.device)).to(device))
        if world_size() > 1:
            width = torch.tensor(len(total), device=device)
            dist.all_reduce(width, op=dist.ReduceOp.MAX)
            both = torch.zeros(int(width) + 1, dtype=torch.float64, device=device)
            both[: len(total)] = total
            both[-1] = count
            dist.all_reduce(both)
            total, count = both[:-1], int(both[-1])
        return OF.mean_cosine(total, count)
