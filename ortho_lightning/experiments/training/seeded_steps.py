"""Randomness within a training step that a resumed training repeats."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback

from ortho_lightning.random import mix


class SeededSteps(Callback):
    """Makes what a step draws, for dropout say, a function of seed, epoch, batch and process.

    Lightning's checkpoints hold no random state; with this a resumed training needs none, on any number of processes.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed the step."""
        torch.manual_seed(mix(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))
