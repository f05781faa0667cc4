"""Evaluation of a module in the middle of its training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode without gradients within the block; the mode of every part is restored."""
    modes = [(part, part.training) for part in module.modules()]  # some may be frozen in theirs
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
