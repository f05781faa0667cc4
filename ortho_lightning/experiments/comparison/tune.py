"""The choice of each arm's own settings, by validation accuracy over grids of the same size."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import command_line, git_commit
from ortho_lightning.experiments.comparison.plan import BASELINE, SETTINGS, check_arms, make_run
from ortho_lightning.experiments.comparison.pool import execute
from ortho_lightning.experiments.comparison.runs import Run
from ortho_lightning.files import write_json, write_text
from ortho_lightning.tables import markdown_table


@dataclass(frozen=True)
class Trial:
    """A setting of an arm and the validation accuracies of its runs.

    Args:
        arm: the regularizer's name.
        setting: the override that was tried.
        val_accuracy: mean of the last epoch's over the seeds; None if a run failed.
        each: the accuracy of every run, None for failed ones.
        seeds: of the runs.
    """

    arm: str
    setting: str
    val_accuracy: float | None
    each: list[float | None]
    seeds: list[int]

    @classmethod
    def of(cls, arm: str, setting: str, runs: Sequence[Run]) -> Trial:
        """Return the trial that these finished or failed runs make."""
        each = [run.record().val_accuracy for run in runs]
        there = [value for value in each if value is not None]
        mean = statistics.fmean(there) if len(there) == len(each) else None
        return cls(arm, setting, mean, each, [run.seed for run in runs])

    def percent(self, unit: str = "") -> str:
        """Return the accuracy as text."""
        return "failed" if self.val_accuracy is None else f"{100 * self.val_accuracy:.2f}{unit}"


def tune(config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """Try every arm's grid with every seed, and write ``tuned.yaml`` under ``config.run_dir``, as conf/tuned takes it.

    Arms with a penalty try weights of it; ``none`` has no weight and tries as many weight decays instead.

    Returns:
        The override that was best for each arm: the highest mean validation accuracy of the last epoch over the seeds,
        the first of equals; a trial of which a run failed is not chosen.

    Raises:
        ConfigurationError: for grids of different sizes, or an arm of which every trial failed.
    """
    folder = Path(config.run_dir).resolve()
    planned = _planned(config, overrides, folder)
    execute([run for runs in planned.values() for run in runs], config.jobs)
    trials = [Trial.of(arm, setting, runs) for (arm, setting), runs in planned.items()]
    best = {arm: _best(arm, trials, folder) for arm in dict.fromkeys(trial.arm for trial in trials)}
    write_json(folder / "trials.json", [asdict(trial) for trial in trials])
    write_text(folder / "tuned.yaml", _as_configuration(best, trials, overrides))
    print("\n" + _table(trials, best))
    for arm, setting in best.items():
        tried = _settings(config, arm)
        if len(tried) > 1 and setting in (tried[0], tried[-1]):
            print(f"{arm}: {setting} stands at an end of the grid; the best may lie beyond it")
    name = HydraConfig.get().runtime.choices["experiment"]
    print(f"\nThe choice is {folder / 'tuned.yaml'}; as conf/tuned/{name}.yaml it holds for every comparison")
    return best


def _planned(config: DictConfig, overrides: Sequence[str], folder: Path) -> dict[tuple[str, str], list[Run]]:
    arms, seeds = check_arms(config)
    sizes = {key: len(config.grid[key]) for key in SETTINGS}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ConfigurationError(f"grid: {sizes} values; every arm gets the same number of trials, and one or more")
    planned = {}
    for arm in arms:
        for setting in _settings(config, arm):
            name = f"{arm}-{setting.partition('=')[2]}"
            planned[arm, setting] = [
                make_run(arm, seed, folder / f"{name}-seed{seed}", overrides, [setting]) for seed in seeds
            ]
    return planned


def _settings(config: DictConfig, arm: str) -> list[str]:
    """The overrides that are tried for an arm, in the grid's order."""
    key = "weight_decay" if arm == BASELINE else "weight"
    return [f"{SETTINGS[key]}={value}" for value in config.grid[key]]


def _best(arm: str, trials: Sequence[Trial], folder: Path) -> str:
    accuracies: dict[str, float] = {}
    for trial in trials:
        if trial.arm == arm and trial.val_accuracy is not None:
            accuracies.setdefault(trial.setting, trial.val_accuracy)
    if not accuracies:
        raise ConfigurationError(f"tune: every trial of {arm} failed; their output.log lie in {folder}")
    return max(accuracies, key=lambda setting: accuracies[setting])


def _as_configuration(best: dict[str, str], trials: Sequence[Trial], overrides: Sequence[str]) -> str:
    model = HydraConfig.get().runtime.choices["model"]
    lines = [
        f"# Chosen by validation accuracy at commit {git_commit() or 'unknown'}, by",
        f"# {command_line(overrides)}",
        *(f"#   {trial.arm} {trial.setting}: {trial.percent('%')}" for trial in trials),
    ]
    chosen = {"model": model, "arms": {arm: [setting] for arm, setting in best.items()}}
    return "\n".join(lines) + "\n" + OmegaConf.to_yaml(chosen)


def _table(trials: Sequence[Trial], best: dict[str, str]) -> str:
    rows = [["arm", "setting", "validation accuracy (%)", ""]]
    for trial in trials:
        mark = "best" if best[trial.arm] == trial.setting else ""
        rows.append([trial.arm, trial.setting, trial.percent(), mark])
    return markdown_table(rows)
