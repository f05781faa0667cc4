"""One training run from a configuration: fit, test, and keep the results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from pytorch_lightning.callbacks import Checkpoint

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import command
from ortho_lightning.experiments.common.clock import StepClock
from ortho_lightning.experiments.common.option_types import check_types, check_value
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.training.angle_figure import AngleSnapshot, layer_records, save_angle_figure
from ortho_lightning.experiments.training.best_epoch import best_epoch
from ortho_lightning.experiments.training.chance import chance_of
from ortho_lightning.experiments.training.history import History
from ortho_lightning.experiments.training.interruption import resumable
from ortho_lightning.experiments.training.matching import MatchCheck
from ortho_lightning.experiments.training.overview import choice, log_overview, summary
from ortho_lightning.experiments.training.pretrained import load_pretrained
from ortho_lightning.experiments.training.resume import find_checkpoint
from ortho_lightning.experiments.training.robustness import robustness
from ortho_lightning.experiments.training.seeded_steps import SeededSteps
from ortho_lightning.files import write_json


def run(config: DictConfig) -> RunRecord:
    """Train and test as ``config`` says; write everything under ``config.run_dir``.

    Returns:
        What ``results.json`` holds.

    Raises:
        ConfigurationError: for a configuration that cannot work.
    """
    check_value("seed", config.seed, int)  # before those that it is passed on to
    check_types(config)
    if config.seed < 0:
        raise ConfigurationError(f"seed={config.seed}: must be 0 or more")
    seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(config.run_dir)
    checkpoint = find_checkpoint(config)
    data: LightningDataModule = instantiate(config.data)
    model: LightningModule = instantiate(config.model)
    if config.pretrained is not None and checkpoint is None:
        load_pretrained(model, config.pretrained, config.last_layer)
    callbacks = _callbacks(config)
    ortho = next((callback for callback in callbacks if isinstance(callback, OrthogonalityCallback)), None)
    clock, history = StepClock(), History(folder / "history.json", ortho)
    match = MatchCheck(choice(config, "model"), choice(config, "data"))
    trainer = _trainer(config, [*callbacks, match, SeededSteps(config.seed), clock, history])
    if trainer.is_global_zero:
        save_provenance(config, folder)
        log_overview(trainer, config)

    before = AngleSnapshot.of(ortho, model)
    trainer.fit(model, data, ckpt_path=checkpoint)
    if checkpoint is not None and clock.median_ms() is None:
        print(f"{checkpoint} was complete already, so nothing was trained: raise trainer.max_epochs to continue")
    after = AngleSnapshot.of(ortho, model)
    # what a resumed run measured first is not from before training
    if checkpoint is None and ortho is not None and ortho.monitor is not None:
        before = replace(before, responses=ortho.monitor.responses_before)
    record = _record(config, trainer, model, data, history, clock, ortho, after)
    if trainer.is_global_zero:
        save_angle_figure(folder / "angles.png", before, after)
        write_json(folder / "results.json", record.results())  # the last: with it a run is finished
        print(f"\n{summary(record)}\neverything else in {config.run_dir}")
    return record


def _callbacks(config: DictConfig) -> list[Callback]:
    callbacks = [instantiate(part) for part in config.callbacks.values() if part is not None]
    if config.trainer.enable_checkpointing:
        return callbacks
    return [callback for callback in callbacks if not isinstance(callback, Checkpoint)]


def _trainer(config: DictConfig, callbacks: list[Callback]) -> Trainer:
    loggers = [instantiate(part) for part in config.logger.values()]
    trainer: Trainer = instantiate(config.trainer, callbacks=callbacks, logger=loggers or False)
    return trainer


def _record(
    config: DictConfig,
    trainer: Trainer,
    model: LightningModule,
    data: LightningDataModule,
    history: History,
    clock: StepClock,
    ortho: OrthogonalityCallback | None,
    angles: AngleSnapshot,
) -> RunRecord:
    """Test the trained model and collect what the run leaves."""
    tested = (trainer.test(model, data, verbose=False) or [{}])[0]
    return RunRecord(
        regularizer=choice(config, "regularizer"),
        seed=config.seed,
        test_accuracy=tested.get("test/accuracy"),
        val_accuracy=history.last("val_accuracy"),
        penalty=history.epochs[-1].values["penalty"] if history.epochs else None,
        step_ms=clock.median_ms(),
        steps=trainer.global_step,
        layers=() if ortho is None else layer_records(ortho.angle_report(), angles),
        robustness=robustness(trainer, model, data),
        best=best_epoch(trainer, model, data),  # the last, as the weights of that epoch stay loaded
        history=tuple(history.epochs),
        start=history.start,
        chance=chance_of(data),
    )


@command("train")
def main(config: DictConfig) -> float | None:
    """Train, and return the validation accuracy, which Hydra's sweepers look at."""
    with resumable(config):
        return run(config).val_accuracy


if __name__ == "__main__":
    main()
