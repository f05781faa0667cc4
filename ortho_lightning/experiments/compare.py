"""Comparison of regularizers over seeds: every run in its own process, and one report."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import command
from ortho_lightning.experiments.common.invocation import own_overrides, shown
from ortho_lightning.experiments.common.option_types import check_types, check_value, is_list_of
from ortho_lightning.experiments.comparison.arms import compare_arms, is_part
from ortho_lightning.experiments.comparison.available import check_baseline, expand_arms, known_arms
from ortho_lightning.experiments.comparison.gather import gather
from ortho_lightning.experiments.comparison.next_steps import next_steps
from ortho_lightning.experiments.comparison.plan import check_arm_settings, check_overrides, check_share, for_one_arm
from ortho_lightning.experiments.comparison.statistics import check_settings
from ortho_lightning.experiments.comparison.tune import tune
from ortho_lightning.experiments.report.comparison import CONFIDENCE, Comparison
from ortho_lightning.experiments.report.documents import write_comparison
from ortho_lightning.experiments.report.terminal import terminal

# of the options that are not passed to a constructor
_TYPES: dict[str, Any] = {
    "baseline": str,
    "jobs": int,
    "costs": int,
    "target": float | None,
    "share": float | None,
    "tune": bool,
    "extend": int,
}


def check(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject a configuration that cannot work, before anything runs.

    Raises:
        ConfigurationError: naming the value.
    """
    for key, hint in _TYPES.items():
        check_value(key, config[key], hint)
    check_types(config)
    for key in ("by", "factors"):
        if config[key] is not None and not is_list_of(str, config[key]):
            raise ConfigurationError(f"{key}={config[key]}: must be a list of keys, as in {key}=[model.net.norm]")
    if config.jobs < 1 or config.costs < 0:
        raise ConfigurationError(f"jobs={config.jobs}, costs={config.costs}: jobs must be 1 or more, costs 0 or more")
    check_settings(CONFIDENCE, config.target)
    check_overrides(config, overrides)
    check_arm_settings(config, known_arms() if is_part() else config.regularizers)
    check_share(config, overrides)
    if config.gather is None and not is_part():  # a job's part need not have the arm
        check_baseline(config.baseline, config.regularizers)
    if config.gather is None and (config.by or config.factors):
        raise ConfigurationError(f"by={config.by}, factors={config.factors}: both need gather=FOLDER")
    if config.gather is not None and config.tune:
        raise ConfigurationError("gather and tune=true: one or the other")


@command("compare", for_one_arm)
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
        print(f"\ninterrupted; finished runs are in {folder}, and the same command continues from there")
        raise SystemExit(130) from None
    _show(comparison, found.folder)
    if not gathers and not is_part():
        for purpose, line in next_steps(found.folder, own_overrides(), comparison.settings.seeds):
            print(f"\n{purpose}\n  {line}")
    _fail(comparison)


def _show(comparison: Comparison, folder: Path) -> None:
    """Print the arms side by side, what was found, the failures and the place of the report."""
    print("\n" + terminal(comparison))
    print(f"\n{comparison.sentence}")
    failed = [run for run in comparison.runs if run.failure is not None]
    for run in failed:
        print(f"failed: {run.regularizer}, seed {run.seed}: {run.failure}")
    print(f"\nThe report, with every table and figure: {shown(folder / 'report.html')}")


def _fail(comparison: Comparison) -> None:
    """Make the command fail if a run has."""
    failed = [run for run in comparison.runs if run.failure is not None]
    if failed and is_part():
        # an exit would end the launcher and with it the jobs that are still to come
        raise RuntimeError(f"{len(failed)} of {len(comparison.runs)} runs failed")
    if failed:
        raise SystemExit(1)
