"""Random numbers as a function of a key and a counter, without state to save or to restore.

Augmentation drawn from these depends on (seed, epoch, index) alone, whatever the batch size, the number of processes
or the point from which training resumed, and is tensor code on whatever device the batch is.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def uniform(index: Tensor, count: int, *key: int) -> Tensor:
    """Return ``count`` numbers for each index, uniform in [0, 1): ``(len(index), count)``, float32.

    Args:
        index: ``(B,)`` integers.
        count: how many numbers each index gets.
        key: integers that select the stream, such as seed and epoch.
    """
    state = index.to(torch.int64).unsqueeze(1) * count + torch.arange(count, device=index.device)
    for word in (mix(*key, 0), mix(*key, 1)):
        # 32-bit arithmetic in 64-bit integers: the multipliers are below 2^31, so that no product overflows
        state = (state ^ word) & _MASK
        state = ((state ^ (state >> 16)) * 0x21F0AAAD) & _MASK
        state = ((state ^ (state >> 15)) * 0x735A2D97) & _MASK
        state = state ^ (state >> 15)
    return (state >> 8).to(torch.float32) * 2.0**-24


def normal(index: Tensor, count: int, *key: int) -> Tensor:
    """Return ``count`` standard normal numbers for each index, by Box and Muller's transform of :func:`uniform`."""
    u = uniform(index, 2 * count, *key)
    radius = torch.sqrt(-2 * torch.log1p(-u[:, :count]))
    return radius * torch.cos(2 * math.pi * u[:, count:])


def number(name: str) -> int:
    """Return a number of a name, the same in every process."""
    return zlib.crc32(name.encode())


def mix(*values: int) -> int:
    """Mix integers into a non-negative 63-bit number (the finalizer of SplitMix64 over each in turn)."""
    state = 0
    mask = (1 << 64) - 1
    for value in values:
        state = (state + value + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state >> 1
