"""Time and memory of a step of each arm of a comparison, measured in one process that trains the arms in turns."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import seed_everything

from ortho_lightning.experiments.common.cli import command
from ortho_lightning.experiments.common.provenance import machine
from ortho_lightning.experiments.comparison.available import BASELINE, expand_arms
from ortho_lightning.experiments.comparison.plan import plan
from ortho_lightning.experiments.comparison.runs import Run
from ortho_lightning.experiments.comparison.step_costs import COSTS
from ortho_lightning.experiments.cost.arms import Arm
from ortho_lightning.experiments.cost.steps import Cost, costs_of
from ortho_lightning.files import write_json

_SILENT = {  # logging is a matter of every 50th step
    "log_every_n_steps": None,
    "monitor": None,
    "log_gradient_ratio_every_n_steps": None,
    "schedule": None,  # a warm-up would leave the penalty out of the first steps
    "weight": 1e-4,  # its size does not change the cost; measuring a share of the gradient is rare
}


def measure(config: DictConfig, overrides: Sequence[str]) -> dict[str, Cost]:
    """Measure the cost of every arm on the first training batch, and its ratio to a step without penalty."""
    runs: dict[str, Run] = {}
    for run in plan(config, overrides, Path(config.run_dir)):
        runs.setdefault(run.arm, run)
    names = sorted(runs, key=lambda name: name != BASELINE)
    found = costs_of([_arm(name, runs[name].config()) for name in names], config.costs)
    if BASELINE in found:  # what is measured of it is noise
        found[BASELINE] = replace(found[BASELINE], ratio=1.0, cpu_ratio=1.0)
    return found


def _arm(name: str, config: DictConfig) -> Arm:
    seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data)
    data.prepare_data()
    data.setup("fit")
    x, y, index = next(iter(data.train_dataloader()))
    batch = (data.prepare(data.augmented(x, index, 0) if data.augment else x), y)
    parts, every, spacing = config.callbacks, 1, 2
    callbacks = [] if parts.constraint is None else [instantiate(parts.constraint)]
    if config.regularizer.penalty is not None:
        every = parts.orthogonality.every_n_steps
        spacing = max(every, 2)
        callbacks.append(instantiate(parts.orthogonality, **_SILENT, every_n_steps=spacing))
    options = {key: config.trainer[key] for key in ("accelerator", "precision")}
    subject = instantiate(config.model)
    without = parts.constraint is not None or config.regularizer.get("kernel_optimizer") is not None
    return Arm(name, subject, batch, {**options, "devices": 1}, callbacks, every, None if without else spacing)


@command("compare")
def main(config: DictConfig) -> None:
    """Measure the costs and write them into ``config.run_dir``."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    expand_arms(config)
    found = measure(config, list(HydraConfig.get().overrides.task))
    costs = {name: asdict(cost) for name, cost in found.items()}
    write_json(Path(config.run_dir) / COSTS, {"machine": machine(), "arms": costs})


if __name__ == "__main__":
    main()
