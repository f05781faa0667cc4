"""The test accuracy of the epoch with the best validation accuracy."""

from __future__ import annotations

import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from ortho_lightning.experiments.common.records import BestEpoch
from ortho_lightning.experiments.training.robustness import no_loggers


def best_epoch(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> BestEpoch | None:
    """Test the weights of the epoch with the best validation accuracy; they stay loaded.

    Returns:
        The epoch and its accuracies; None where its weights were not kept.
    """
    watching = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint))
    best = next((callback for callback in watching if callback.monitor == "val/accuracy"), None)
    if best is None or not best.best_model_path:
        return None
    # the weights alone: a checkpoint given to test() would also set back the callbacks
    saved = torch.load(best.best_model_path, map_location="cpu", weights_only=False)
    model.load_state_dict(saved["state_dict"])
    with no_loggers(trainer):
        tested = (trainer.test(model, data, verbose=False) or [{}])[0]
    score = best.best_model_score
    return BestEpoch(saved["epoch"], None if score is None else score.item(), tested.get("test/accuracy"))
