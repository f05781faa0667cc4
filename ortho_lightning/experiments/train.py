"""One training run from a configuration: fit, test, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cli import conf_dir, plain_errors
from ortho_lightning.experiments.clock import StepClock
from ortho_lightning.experiments.overview import log_overview, summary
from ortho_lightning.experiments.pictures import AngleSnapshot, save_angle_picture
from ortho_lightning.experiments.provenance import save_provenance, write_json
from ortho_lightning.experiments.resume import find_checkpoint
from ortho_lightning.kernels import mix


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
    clock = StepClock()
    trainer: Trainer = instantiate(
        config.trainer, callbacks=[*callbacks, SeededSteps(config.seed), clock], logger=loggers or False
    )
    ortho = next((callback for callback in callbacks if isinstance(callback, OrthogonalityCallback)), None)
    if trainer.is_global_zero:
        save_provenance(config, folder)
        log_overview(trainer, config)

    before = AngleSnapshot.of(ortho, model)
    trainer.fit(model, data, ckpt_path=checkpoint)
    validated = {key: value.item() for key, value in trainer.callback_metrics.items() if not key.startswith("ortho/")}
    tested = (trainer.test(model, data, verbose=False) or [{}])[0]

    if checkpoint is not None and clock.median_ms() is None:
        print(f"{checkpoint} was complete already, so nothing was trained: raise trainer.max_epochs to go on")
    results = {
        "seed": config.seed,
        "test_accuracy": tested.get("test/accuracy"),
        "val_accuracy": validated.get("val/accuracy"),
        "penalty": None if ortho is None or ortho.penalty is None else ortho.penalty.item(),
        "step_ms": clock.median_ms(),
        "steps": trainer.global_step,
        "layers": [] if ortho is None else ortho.angle_report(),
    }
    if trainer.is_global_zero:
        write_json(folder / "results.json", results)
        save_angle_picture(folder / "angles.png", before, AngleSnapshot.of(ortho, model))
    return results


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
def main(config: DictConfig) -> None:
    results = run(config)
    print(f"\n{summary(results)}\neverything else in {config.run_dir}")


if __name__ == "__main__":
    main()
