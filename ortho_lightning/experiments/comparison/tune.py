"""Each arm's own settings, chosen on validation accuracy over the same grid, the same number of trials for each."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import command_line, git_commit
from ortho_lightning.experiments.comparison.plan import BASELINE, SETTINGS, check_arms, make_run
from ortho_lightning.experiments.comparison.pool import execute
from ortho_lightning.experiments.comparison.runs import Run
from ortho_lightning.files import whole_file, write_json
from ortho_lightning.tables import markdown_table


def tune(config: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """Try every arm's grid with every seed, and write ``tuned.yaml`` under ``config.run_dir``, as conf/tuned takes it.

    Arms with a penalty try weights of it; ``none`` has no weight and tries as many weight decays instead.

    Returns:
        The override that was best for each arm: the highest mean validation accuracy of the last epoch over the seeds,
        the first of equals; a trial of which a run failed is not chosen.

    Raises:
        ConfigurationError: for grids of different sizes.
    """
    folder = Path(config.run_dir).resolve()
    trials = _trials(config, overrides, folder)
    execute([run for runs in trials.values() for run in runs], config.jobs)
    found = [_found(arm, setting, runs) for (arm, setting), runs in trials.items()]
    best: dict[str, str] = {}
    for arm in dict.fromkeys(arm for arm, _ in trials):
        scored = [one for one in found if one["arm"] == arm and one["val_accuracy"] is not None]
        if not scored:
            raise ConfigurationError(f"tune: every trial of {arm} failed; their output.log lie in {folder}")
        best[arm] = max(scored, key=lambda one: one["val_accuracy"])["setting"]
    write_json(folder / "trials.json", found)
    with whole_file(folder / "tuned.yaml") as path:
        path.write_text(_as_configuration(best, found, overrides))
    print("\n" + _table(found, best))
    for arm, setting in best.items():
        tried = _settings(config, arm)
        if len(tried) > 1 and setting in (tried[0], tried[-1]):
            print(f"{arm}: {setting} stands at an end of the grid; the best may lie beyond it")
    name = HydraConfig.get().runtime.choices["experiment"]
    print(f"\nThe choice is {folder / 'tuned.yaml'}; as conf/tuned/{name}.yaml it holds for every comparison")
    return best


def _trials(config: DictConfig, overrides: Sequence[str], folder: Path) -> dict[tuple[str, str], list[Run]]:
    arms, seeds = check_arms(config)
    sizes = {key: len(config.grid[key]) for key in SETTINGS}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise ConfigurationError(f"grid: {sizes} values; every arm gets the same number of trials, and one or more")
    trials = {}
    for arm in arms:
        for setting in _settings(config, arm):
            name = f"{arm}-{setting.partition('=')[2]}"
            trials[arm, setting] = [
                make_run(arm, seed, folder / f"{name}-seed{seed}", overrides, [setting]) for seed in seeds
            ]
    return trials


def _settings(config: DictConfig, arm: str) -> list[str]:
    """What is tried of an arm, in the grid's order."""
    key = "weight_decay" if arm == BASELINE else "weight"
    return [f"{SETTINGS[key]}={value}" for value in config.grid[key]]


def _found(arm: str, setting: str, runs: Sequence[Run]) -> dict[str, Any]:
    values: list[float | None] = [run.record().get("val_accuracy") for run in runs]
    there = [value for value in values if value is not None]
    mean = statistics.fmean(there) if len(there) == len(values) else None
    return {"arm": arm, "setting": setting, "val_accuracy": mean, "each": values, "seeds": [run.seed for run in runs]}


def _as_configuration(best: dict[str, str], found: Sequence[dict[str, Any]], overrides: Sequence[str]) -> str:
    model = HydraConfig.get().runtime.choices["model"]
    lines = [
        f"# Chosen by validation accuracy at commit {git_commit() or 'unknown'}, by",
        f"# {command_line(overrides)}",
    ]
    for one in found:
        accuracy = "failed" if one["val_accuracy"] is None else f"{100 * one['val_accuracy']:.2f}%"
        lines.append(f"#   {one['arm']} {one['setting']}: {accuracy}")
    return (
        "\n".join(lines)
        + "\n"
        + OmegaConf.to_yaml({"model": model, "arms": {arm: [setting] for arm, setting in best.items()}})
    )


def _table(found: Sequence[dict[str, Any]], best: dict[str, str]) -> str:
    rows = [["arm", "setting", "validation accuracy (%)", ""]]
    for one in found:
        accuracy = "failed" if one["val_accuracy"] is None else f"{100 * one['val_accuracy']:.2f}"
        rows.append([one["arm"], one["setting"], accuracy, "best" if best[one["arm"]] == one["setting"] else ""])
    return markdown_table(rows)
