"""Arms times seeds, each run in a process of its own, and the report that sets them side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir, plain_errors
from ortho_lightning.experiments.comparison import gather, tune
from ortho_lightning.experiments.comparison.plan import check_overrides, plan, tuned_settings
from ortho_lightning.experiments.comparison.pool import execute
from ortho_lightning.experiments.comparison.runs import UNFINISHED, environment_of_runs, held, quoted
from ortho_lightning.experiments.comparison.statistics import check_settings
from ortho_lightning.experiments.report.documents import main_table


def measure_costs(config: DictConfig, overrides: Sequence[str], folder: Path) -> None:
    """Step time and memory of every arm, in one process that trains them in turns; once for the same arms."""
    if config.costs == 0 or set(config.regularizers) <= set(gather.read_costs(folder)["arms"]):
        return
    print("measuring what a step of each arm costs ...", flush=True)
    command = [sys.executable, "-m", "ortho_lightning.experiments.comparison.costs", *overrides]
    done = subprocess.run(
        [*command, f"hydra.run.dir={quoted(folder)}"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment_of_runs(),
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        print(f"what a step costs could not be measured: {lines[-1] if lines else done.returncode}", flush=True)


def check(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse what cannot work, before anything runs."""
    if config.jobs < 1 or config.costs < 0:
        raise ConfigurationError(f"jobs={config.jobs}, costs={config.costs}: jobs must be 1 or more, costs 0 or more")
    check_settings(gather.CONFIDENCE, config.target)
    check_overrides(config, overrides)
    if config.gather is not None and config.tune:
        raise ConfigurationError("gather and tune=true: one or the other")


def compare(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Run what ``config`` asks for, or gather what has been run, and write the report under ``config.run_dir``."""
    if config.gather is not None:
        folder = Path(config.gather).expanduser().resolve()
        found = gather.find_runs(folder)
        records = gather.gathered(found)
        return gather.report(folder, found, records, gather.experiment_of(found), overrides, config.target)
    experiment = str(HydraConfig.get().runtime.choices["experiment"])
    folder = Path(config.run_dir).resolve()
    runs = plan(config, overrides, folder)
    tuned = {arm: settings for arm, settings in tuned_settings(config).items() if arm in config.regularizers}
    if tuned:
        shown = "; ".join(f"{arm} {' '.join(settings)}" for arm, settings in tuned.items())
        print(f"tuned settings, which tuned=none leaves out: {shown}", flush=True)
    execute(runs, config.jobs)
    if HydraConfig.get().mode == RunMode.MULTIRUN:  # one part of a comparison: the report is of all parts so far
        with held(folder / ".lock"):  # so that the last part to come reads and writes last
            found = gather.find_runs(folder)
            records = [one for one in gather.gathered(found) if one["failure"] != UNFINISHED]
            return gather.report(folder, found, records, experiment, ["-m", *overrides], config.target)
    if any(run.finished for run in runs):
        measure_costs(config, overrides, folder)
    folders = [run.folder for run in runs]
    return gather.report(folder, folders, [run.record() for run in runs], experiment, overrides, config.target)


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="compare")
@plain_errors
def main(config: DictConfig) -> None:
    overrides = list(HydraConfig.get().overrides.task)
    check(config, overrides)
    folder = Path(config.gather or config.run_dir)
    try:
        if config.tune:
            tune.tune(config, overrides)
            return
        content = compare(config, overrides)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is finished is in {folder}, and the same command goes on from there")
        raise SystemExit(130) from None
    print("\n" + main_table(content))
    print(f"\n{content['summary']['sentence']}")
    failed = [run for run in content["runs"] if run["failure"] is not None]
    for one in failed:
        print(f"failed: {one['regularizer']}, seed {one['seed']}: {one['failure']}")
    print(f"\nThe report is {folder / 'report.html'}; each run's event files for TensorBoard lie beside it")
    if failed and HydraConfig.get().mode == RunMode.MULTIRUN:
        # an exit would end the launcher and with it the jobs that are still to come
        raise RuntimeError(f"{len(failed)} of {len(content['runs'])} runs failed")
    if failed:
        raise SystemExit(1)
