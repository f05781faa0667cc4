"""Moments of the vectors of all processes together."""

from __future__ import annotations

import torch
import torch.distributed as dist

from ortho_lightning.distributed import world_size
from ortho_lightning.functional import Moments, Tails, WeightSums


def joined_moments(here: Moments) -> Moments:
    """Return the moments of the vectors of all processes, the same in each.

    The joined mean comes first, from a sum of d + 3 numbers. All else is moved to it and added up in one all-reduce,
    so that no digit is lost where the processes' means differ.

    Args:
        here: of this process, on a device that the backend supports; :meth:`Moments.empty` where it has no vectors.
    """
    if world_size() == 1:
        return here
    head = torch.cat([here.mean.new_tensor([here.count, here.total, here.squares]), here.mean * here.total])
    dist.all_reduce(head)
    count, total, squares = head[:3].tolist()
    mean = head[3:] / max(total, torch.finfo(torch.float64).tiny)
    scatter, tails = here.about(mean)
    unknown = torch.full_like(mean, torch.nan)
    cubic, quartic = (unknown, unknown[0]) if tails is None else (tails.cubic, tails.quartic)
    sums = torch.cat([scatter.flatten(), cubic, quartic.reshape(1)])
    dist.all_reduce(sums)
    scatter, cubic, quartic = sums[: scatter.numel()].view_as(scatter), sums[scatter.numel() : -1], sums[-1]
    return Moments(
        int(count),
        mean,
        (scatter + scatter.mT) / 2,
        None if count == total == squares else WeightSums(total, squares),
        None if quartic.isnan() else Tails(cubic, quartic),
        here.precision,
    )
