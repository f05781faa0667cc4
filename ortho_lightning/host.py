"""Copies of small tensors on the host, for which a device is waited for once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors on the CPU; those of one device arrive together.

    Integers must be below 2^53: they travel as float64, where the device has it.
    """
    found = [tensor.detach() for tensor in tensors]
    places: dict[torch.device, list[int]] = {}
    for at, tensor in enumerate(found):
        places.setdefault(tensor.device, []).append(at)
    for device, own in places.items():
        if device.type == "cpu":
            continue
        if device.type == "mps":  # it has no float64, in which all of them could travel together
            for at in own:
                found[at] = found[at].cpu()
            continue
        joined = torch.cat([found[at].reshape(-1).double() for at in own]).cpu()
        sizes = [found[at].numel() for at in own]
        for at, values in zip(own, joined.split(sizes), strict=True):
            found[at] = values.reshape(found[at].shape).to(found[at].dtype)
    return found
