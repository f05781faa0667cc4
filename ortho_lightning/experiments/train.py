"""One training run from a configuration: fit, test, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_only

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir, plain_errors
from ortho_lightning.experiments.common.clock import StepClock
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.training.angle_figure import AngleSnapshot, save_angle_picture
from ortho_lightning.experiments.training.history import History, without_nan
from ortho_lightning.experiments.training.overview import choice, log_overview, summary
from ortho_lightning.experiments.training.resume import find_checkpoint
from ortho_lightning.experiments.training.robustness import no_loggers, robustness
from ortho_lightning.files import write_json
from ortho_lightning.random import mix


def run(config: DictConfig) -> dict[str, Any]:
    """Train and test as ``config`` says; write everything under ``config.run_dir`` and return ``results.json``."""
    if config.seed < 0:
        raise ConfigurationError(f"seed={config.seed}: must be 0 or more")
    seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(config.run_dir)
    checkpoint = find_checkpoint(config)
    data = instantiate(config.data)
    model = instantiate(config.model)
    callbacks = [instantiate(part) for part in config.callbacks.values()]
    if not config.trainer.enable_checkpointing:
        callbacks = [callback for callback in callbacks if not isinstance(callback, Checkpoint)]
    loggers = [instantiate(part) for part in config.logger.values()]
    ortho = next((callback for callback in callbacks if isinstance(callback, OrthogonalityCallback)), None)
    clock, history = StepClock(), History(folder / "history.json", ortho)
    own = [SeededSteps(config.seed), clock, history]
    trainer: Trainer = instantiate(config.trainer, callbacks=[*callbacks, *own], logger=loggers or False)
    if trainer.is_global_zero:
        save_provenance(config, folder)
        log_overview(trainer, config)

    before = AngleSnapshot.of(ortho, model)
    trainer.fit(model, data, ckpt_path=checkpoint)
    tested = (trainer.test(model, data, verbose=False) or [{}])[0]

    if checkpoint is not None and clock.median_ms() is None:
        print(f"{checkpoint} was complete already, so nothing was trained: raise trainer.max_epochs to go on")
    after = AngleSnapshot.of(ortho, model)
    results = {
        "regularizer": choice(config, "regularizer"),
        "seed": config.seed,
        "test_accuracy": tested.get("test/accuracy"),
        "val_accuracy": history.last("val_accuracy"),
        "penalty": history.epochs[-1]["penalty"] if history.epochs else None,
        "step_ms": clock.median_ms(),
        "steps": trainer.global_step,
        "layers": [] if ortho is None else _layers(ortho.angle_report(), after),
        "robustness": robustness(trainer, model, data),
        "best": _best(trainer, model, data),  # the last, as the weights of that epoch stay loaded
        "history": history.epochs,
        "start": history.start,
    }
    if trainer.is_global_zero:
        save_angle_picture(folder / "angles.png", before, after)
        write_json(folder / "results.json", results)  # the last: with it a run is finished
    return results


def _layers(report: list[dict[str, Any]], snapshot: AngleSnapshot) -> list[dict[str, Any]]:
    """The angle report with the histogram of each layer, in bins of 2 degrees."""
    return [without_nan({**layer, "counts": snapshot.angles[layer["name"]].counts.tolist()}) for layer in report]


def _best(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> dict[str, Any] | None:
    """The epoch of the best validation accuracy, and the test accuracy of its weights; None where none were kept."""
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
    return {
        "epoch": saved["epoch"],
        "val_accuracy": None if score is None else score.item(),
        "test_accuracy": tested.get("test/accuracy"),
    }


class SeededSteps(Callback):
    """Makes what a step draws (dropout, say) a function of seed, epoch, batch and process.

    Lightning's checkpoints hold no random state; with this a resumed training needs none, on any number of processes.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(mix(self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")
@plain_errors
def main(config: DictConfig) -> float | None:
    """The validation accuracy is what Hydra's sweepers look at."""
    results = run(config)
    rank_zero_only(print)(f"\n{summary(results)}\neverything else in {config.run_dir}")
    accuracy: float | None = results["val_accuracy"]
    return accuracy


if __name__ == "__main__":
    main()
