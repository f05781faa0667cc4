"""The test accuracy that needs no training: that of one answer to every sample."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningDataModule

from ortho_lightning.data.module import TensorDataModule
from ortho_lightning.experiments.common.records import Chance


def chance_of(data: LightningDataModule) -> Chance | None:
    """Return the share of the most frequent class among the test labels, which no guessing exceeds in the mean.

    Args:
        data: after its ``setup``.

    Returns:
        None for data modules that do not hold their labels in memory, and for labels that are no class numbers.
    """
    if not isinstance(data, TensorDataModule) or "test" not in data.splits:
        return None
    _, labels = data.splits["test"]
    if labels.dim() != 1 or not len(labels) or labels.is_floating_point() or labels.min() < 0:
        return None
    counts = torch.bincount(labels)
    return Chance(counts.max().item() / len(labels), len(labels))
