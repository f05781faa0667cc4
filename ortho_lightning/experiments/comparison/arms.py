"""The plain comparison: make the runs that are missing and collect all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ortho_lightning.experiments.comparison.gather import ComparedRuns, gathered
from ortho_lightning.experiments.comparison.locks import held
from ortho_lightning.experiments.comparison.plan import plan, tuned_settings
from ortho_lightning.experiments.comparison.pool import execute
from ortho_lightning.experiments.comparison.run_folder import UNFINISHED, find_runs
from ortho_lightning.experiments.comparison.step_costs import measure_costs


@contextlib.contextmanager
def compare_arms(config: DictConfig, overrides: Sequence[str]) -> Iterator[ComparedRuns]:
    """Make the runs that ``config`` asks for.

    Jobs of a launcher each make a part of a comparison, and each reports all parts so far. While one of them is inside
    of the ``with`` block the others wait, so the last one to come reads and writes last.

    Yields:
        The runs to report.
    """
    experiment = str(HydraConfig.get().runtime.choices["experiment"])
    folder = Path(config.run_dir).resolve()
    runs = plan(config, overrides, folder)
    _show_tuned(config)
    execute(runs, config.jobs)
    if is_part():
        with held(folder / ".lock"):
            found = find_runs(folder)
            records = [one for one in gathered(found) if one.failure != UNFINISHED]
            yield ComparedRuns(folder, experiment, ["-m", *overrides], found, records, config.baseline)
        return
    if any(run.finished for run in runs):
        measure_costs(config, overrides, folder)
    records = [run.record() for run in runs]
    yield ComparedRuns(folder, experiment, overrides, [run.folder for run in runs], records, config.baseline)


def is_part() -> bool:
    """Return whether this process is one job of a launcher."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _show_tuned(config: DictConfig) -> None:
    tuned = {arm: settings for arm, settings in tuned_settings(config).items() if arm in config.regularizers}
    if tuned:
        shown = "; ".join(f"{arm} {' '.join(settings)}" for arm, settings in tuned.items())
        print(f"tuned settings, which tuned=none leaves out: {shown}", flush=True)
