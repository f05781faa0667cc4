"""The choice of each arm's own settings, by validation accuracy over a grid of its own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import command_line, git_commit
from ortho_lightning.experiments.comparison.grid import Choice, arm_grid, search
from ortho_lightning.experiments.comparison.plan import check_arms, make_run
from ortho_lightning.experiments.comparison.pool import execute
from ortho_lightning.experiments.comparison.run_folder import identity_of
from ortho_lightning.experiments.comparison.runs import Run
from ortho_lightning.files import write_json, write_text
from ortho_lightning.tables import markdown_table

TRIALS = "trials.json"
TUNED = "tuned.yaml"


@dataclass(frozen=True)
class Trial:
    """A setting of an arm and the validation accuracies of its runs.

    Args:
        arm: the regularizer's name.
        setting: the overrides that were tried, with spaces between.
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


def tune(config: DictConfig, overrides: Sequence[str]) -> dict[str, list[str]]:
    """Search every arm's grid with every seed; write ``tuned.yaml`` under ``config.run_dir``, as conf/tuned takes it.

    The keys of an arm's grid are searched one after the other, each with the best values of those before it. A search
    that ends with the smallest or the largest number goes on beyond it, up to ``config.extend`` further numbers.

    Returns:
        The overrides that were best for each arm: the highest mean validation accuracy of the last epoch over the
        seeds, the first of equals; a trial of which a run failed is not chosen.

    Raises:
        ConfigurationError: for an arm without a grid, or of which every trial failed.
    """
    folder = Path(config.run_dir).resolve()
    arms, seeds = check_arms(config)
    searches = {arm: search(arm_grid(config, arm), config.extend) for arm in arms}
    asked = {arm: next(searching) for arm, searching in searches.items()}
    trials: list[Trial] = []
    made: list[tuple[dict[str, Any], list[Run]]] = []
    best: dict[str, list[str]] = {}
    while asked:  # what all arms ask for at once, so that no job waits
        planned = {
            (arm, settings): _made_once([_run(arm, seed, folder, overrides, settings) for seed in seeds], made)
            for arm, wanted in asked.items()
            for settings in wanted
        }
        execute([run for runs in planned.values() for run in runs], config.jobs)
        found = {(arm, settings): Trial.of(arm, " ".join(settings), runs) for (arm, settings), runs in planned.items()}
        trials += found.values()
        write_json(folder / TRIALS, [asdict(trial) for trial in trials])
        for arm, wanted in list(asked.items()):
            del asked[arm]
            try:
                asked[arm] = searches[arm].send({settings: found[arm, settings].val_accuracy for settings in wanted})
            except StopIteration as ended:
                best[arm] = _chosen(arm, ended.value)
            except ConfigurationError as error:
                raise ConfigurationError(f"{arm}: {error}; their output.log lie in {folder}") from error
    best = {arm: best[arm] for arm in arms}
    write_text(folder / TUNED, _as_configuration(best, trials, overrides))
    print("\n" + _table(trials, best))
    name = HydraConfig.get().runtime.choices["experiment"]
    print(f"\nThe choice is {folder / TUNED}; as conf/tuned/{name}.yaml it holds for every comparison")
    return best


def _chosen(arm: str, choice: Choice) -> list[str]:
    for setting in choice.at_an_end:
        print(f"{arm}: {setting} is at an end of the values that were tried; the best value may be beyond it")
    return list(choice.settings)


def _run(arm: str, seed: int, folder: Path, overrides: Sequence[str], settings: Sequence[str]) -> Run:
    name = "-".join([arm, *(setting.partition("=")[2] for setting in settings)])
    return make_run(arm, seed, folder / f"{name}-seed{seed}", overrides, settings)


def _made_once(runs: list[Run], made: list[tuple[dict[str, Any], list[Run]]]) -> list[Run]:
    """Return the runs of an earlier trial that trained the same, or else these, and remember them.

    A grid often holds the value that the arm has by default, and so was trained with while another key was searched.
    """
    wanted = identity_of(runs[0].config())
    earlier = next((others for own, others in made if own == wanted), None)
    if earlier is None:
        made.append((wanted, runs))
    return earlier or runs


def _as_configuration(best: dict[str, list[str]], trials: Sequence[Trial], overrides: Sequence[str]) -> str:
    model = HydraConfig.get().runtime.choices["model"]
    lines = [
        f"# Chosen by validation accuracy at commit {git_commit() or 'unknown'}, by",
        f"# {command_line(overrides)}",
        *(f"#   {trial.arm} {trial.setting}: {trial.percent('%')}" for trial in trials),
    ]
    chosen = {"model": model, "arms": best}
    return "\n".join(lines) + "\n" + OmegaConf.to_yaml(chosen)


def _table(trials: Sequence[Trial], best: dict[str, list[str]]) -> str:
    rows = [["arm", "setting", "validation accuracy (%)", ""]]
    for trial in trials:
        mark = "best" if " ".join(best[trial.arm]) == trial.setting else ""
        rows.append([trial.arm, trial.setting, trial.percent(), mark])
    return markdown_table(rows)
