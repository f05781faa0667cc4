"""Statistics of the joined batch of all processes, with the gradient that belongs to them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient needs no second collective.

    Every process computes the same penalty from the sum, so the incoming gradients are equal, and DDP divides by the
    number of processes afterwards: times that number, the averaged gradient is that of one process with all samples.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * dist.get_world_size()


def joined_statistics(
    statistics: dict[str, list[Tensor]], shapes: dict[str, tuple[int, ...]], reference: Tensor
) -> dict[str, list[Tensor]]:
    """Return each layer's statistics added over processes, run by run.

    One collective for the numbers of runs and one for all statistics, of the same size on every process: a process in
    which a layer did not run takes part with zeros, so that none waits for another that took a different branch.

    Args:
        statistics: by layer, the statistics of each of its runs here.
        shapes: the shape of each layer's statistics, for all selected layers in the same order everywhere.
        reference: a tensor on the device of the process, of the statistics' dtype.
    """
    counts = torch.tensor([len(statistics.get(name, [])) for name in shapes], device=reference.device)
    dist.all_reduce(counts, op=dist.ReduceOp.MAX)
    slots = [(name, run) for name, count in zip(shapes, counts.tolist(), strict=True) for run in range(count)]
    if not slots:
        return {}
    parts = []
    for name, run in slots:
        here = statistics.get(name, [])
        parts.append(here[run] if run < len(here) else reference.new_zeros(shapes[name]))
    dtype = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    flat = _SumOverProcesses.apply(torch.cat([part.to(reference.device, dtype).flatten() for part in parts]))
    joined: dict[str, list[Tensor]] = {}
    for (name, _), part, values in zip(slots, parts, flat.split([p.numel() for p in parts]), strict=True):
        joined.setdefault(name, []).append(values.reshape(part.shape))
    return joined
