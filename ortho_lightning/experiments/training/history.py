"""What a training went through, epoch by epoch, kept in its checkpoints so that a resumed run tells the whole story."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback
from torch import Tensor

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.callbacks.monitoring.angles import angle_scalars
from ortho_lightning.experiments.training.angle_figure import AngleSnapshot
from ortho_lightning.files import write_json

_METRICS = {name.replace("/", "_"): name for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy")}
_ANGLES = ("angle_mean", "angle_std", "spread_ratio", "max_abs_cos")


class History(Callback):
    """Records losses, accuracies, penalty and angles after every epoch, and what the training started from.

    Args:
        path: where the records stand, as JSON, from the first epoch on.
        ortho: whose penalty and layers are recorded; None: no angles.
    """

    def __init__(self, path: Path, ortho: OrthogonalityCallback | None) -> None:
        self.epochs: list[dict[str, Any]] = []
        """A dict an epoch; the angles are means over layers, ``max_abs_cos`` is the largest."""
        self.start: dict[str, str] | None = None
        """Hashes of the initial weights and of the first batch, by which paired runs are known."""
        self._path = path
        self._ortho = ortho

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.start is None:
            self.start = {"weights": _digest(pl_module.parameters()), "batch": _digest(batch)}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        found = trainer.callback_metrics
        record: dict[str, Any] = {"epoch": trainer.current_epoch}
        record |= {key: found[name].item() if name in found else None for key, name in _METRICS.items()}
        record["penalty"] = None if self._ortho is None or self._ortho.penalty is None else self._ortho.penalty.item()
        angles = angle_scalars(AngleSnapshot.of(self._ortho, pl_module).angles)
        record |= {key: angles.get(key) for key in _ANGLES}
        self.epochs.append(without_nan(record))
        if trainer.is_global_zero:
            write_json(self._path, self.epochs)

    def last(self, key: str) -> Any:
        """The value of the last epoch that has one."""
        return next((record[key] for record in reversed(self.epochs) if record[key] is not None), None)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs, self.start = list(state_dict["epochs"]), state_dict["start"]


def without_nan(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: None stands for what is not a finite number."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
