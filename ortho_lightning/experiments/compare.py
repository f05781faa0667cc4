"""Comparison of regularizers over seeds: every run in its own process, and one report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir, plain_errors
from ortho_lightning.experiments.comparison.arms import compare_arms, is_part
from ortho_lightning.experiments.comparison.available import expand_arms
from ortho_lightning.experiments.comparison.gather import gather
from ortho_lightning.experiments.comparison.plan import check_overrides, check_share
from ortho_lightning.experiments.comparison.statistics import check_settings
from ortho_lightning.experiments.comparison.tune import tune
from ortho_lightning.experiments.report.comparison import CONFIDENCE, Comparison
from ortho_lightning.experiments.report.documents import main_table, write_comparison


def check(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject a configuration that cannot work, before anything runs.

    Raises:
        ConfigurationError: naming the value.
    """
    if config.jobs < 1 or config.costs < 0:
        raise ConfigurationError(f"jobs={config.jobs}, costs={config.costs}: jobs must be 1 or more, costs 0 or more")
    check_settings(CONFIDENCE, config.target)
    check_overrides(config, overrides)
    check_share(config, overrides)
    if config.gather is not None and config.tune:
        raise ConfigurationError("gather and tune=true: one or the other")


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="compare")
@plain_errors
def main(config: DictConfig) -> None:
    """Compare arms, gather runs that were made elsewhere (``gather=``), or choose each arm's settings (``tune=true``).

    Raises:
        SystemExit: with status 1 if a run failed, 130 after an interruption.
        RuntimeError: if a run failed in a job of a launcher.
    """
    overrides = list(HydraConfig.get().overrides.task)
    for arm, missing in expand_arms(config).items():
        print(f"regularizers=all leaves out {arm}, which needs {missing}: pip install '{missing}'")
    check(config, overrides)
    folder = Path(config.gather or config.run_dir)
    try:
        if config.tune:
            tune(config, overrides)
            return
        gathers = config.gather is not None
        runs = contextlib.nullcontext(gather(config, overrides)) if gathers else compare_arms(config, overrides)
        with runs as found:
            comparison = write_comparison(found, config.target)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is finished is in {folder}, and the same command goes on from there")
        raise SystemExit(130) from None
    _show(comparison, folder)


def _show(comparison: Comparison, folder: Path) -> None:
    """Print the main table and the failures, which make the command fail."""
    print("\n" + main_table(comparison))
    print(f"\n{comparison.sentence}")
    failed = [run for run in comparison.runs if run.failure is not None]
    for run in failed:
        print(f"failed: {run.regularizer}, seed {run.seed}: {run.failure}")
    print(f"\nThe report is {folder / 'report.html'}; each run's event files for TensorBoard lie beside it")
    if failed and is_part():
        # an exit would end the launcher and with it the jobs that are still to come
        raise RuntimeError(f"{len(failed)} of {len(comparison.runs)} runs failed")
    if failed:
        raise SystemExit(1)
