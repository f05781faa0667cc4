"""The history of a training, epoch by epoch, kept in its checkpoints so that a resumed run has all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from torch import Tensor

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.callbacks.monitoring.angles import angle_scalars
from ortho_lightning.callbacks.monitoring.responses import response_scalars
from ortho_lightning.experiments.common.records import EpochRecord, without_nan
from ortho_lightning.experiments.training.angle_figure import AngleSnapshot
from ortho_lightning.files import write_json

_METRICS = {name.replace("/", "_"): name for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy")}
_ANGLES = ("angle_mean", "angle_std", "spread_ratio", "max_abs_cos", "response_angle_mean", "response_angle_std")


class History(Callback):
    """Records losses, accuracies, penalty and angles after every epoch, and what the training started from.

    Args:
        path: of the records as JSON, from the first epoch on.
        ortho: the callback whose penalty and layers are recorded; None: no angles.
    """

    def __init__(self, path: Path, ortho: OrthogonalityCallback | None) -> None:
        self.epochs: list[EpochRecord] = []
        """One record per epoch; the angles are means over layers, ``max_abs_cos`` is the largest."""
        self.start: dict[str, str] | None = None
        """Hashes of the initial weights and of the first batch, which paired runs share."""
        self._path = path
        self._ortho = ortho

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Hash the initial weights and the first batch."""
        if self.start is None:
            self.start = {"weights": _digest(pl_module.parameters()), "batch": _digest(batch)}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Record the epoch."""
        found = trainer.callback_metrics
        values = {key: found[name].item() if name in found else None for key, name in _METRICS.items()}
        values["penalty"] = None if self._ortho is None or self._ortho.penalty is None else self._ortho.penalty.item()
        measured = AngleSnapshot.of(self._ortho, pl_module)
        angles = angle_scalars(measured.angles) | response_scalars(measured.responses)
        values |= {key: angles.get(key) for key in _ANGLES}
        self.epochs.append(EpochRecord(trainer.current_epoch, without_nan(values)))
        if trainer.is_global_zero:
            write_json(self._path, self._stored())

    def last(self, key: str) -> float | None:
        """Return the value of the last epoch that has one."""
        values = (record.values.get(key) for record in reversed(self.epochs))
        return next((value for value in values if value is not None), None)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, in plain types."""
        return {"epochs": self._stored(), "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what a checkpoint kept."""
        self.epochs = [EpochRecord.from_json(one) for one in state_dict["epochs"]]
        self.start = state_dict["start"]

    def _stored(self) -> list[dict[str, Any]]:
        return [record.to_json() for record in self.epochs]


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
