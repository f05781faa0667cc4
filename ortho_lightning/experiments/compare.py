"""Arms times seeds, each run in a process of its own, and the table that sets them side by side."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cli import conf_dir, plain_errors
from ortho_lightning.experiments.provenance import write_json
from ortho_lightning.experiments.tables import write_csv
from ortho_lightning.tables import markdown_table

_OWN = ("seeds", "regularizers", "regularizer", "seed", "run_dir")
_COLUMNS = {
    "arm": "regularizer",
    "test accuracy (%)": "test_accuracy",
    "penalty": "penalty",
    "angle mean (deg)": "angle_mean",
    "angle spread (deg)": "angle_std",
    "spread / random": "spread_ratio",
    "step (ms)": "step_ms",
}


_LEGEND = """\
Means over layers and over {seeds} seed(s): with so few, differences of accuracy below a point say little.
The penalty is in each regularizer's own units. Spread / random is the spread of the angles over that of random
directions: below 1 the filters are closer to right angles than chance, above 1 training has drawn some together."""


def summarize(results: dict[str, Any]) -> dict[str, float | None]:
    """The figures of one run that the table shows: means over layers of its angles."""
    layers = results["layers"]

    def over_layers(key: str) -> float | None:
        return statistics.fmean(layer[key] for layer in layers) if layers else None

    accuracy = results["test_accuracy"]
    return {
        "test_accuracy": None if accuracy is None else 100 * accuracy,
        "val_accuracy": None if results["val_accuracy"] is None else 100 * results["val_accuracy"],
        "penalty": results["penalty"],
        "angle_mean": over_layers("mean"),
        "angle_std": over_layers("std"),
        "spread_ratio": over_layers("spread_ratio"),
        "step_ms": results["step_ms"],
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with a row an arm: the mean over its seeds of each figure, or why there is none."""
    rows = [list(_COLUMNS)]
    for arm in dict.fromkeys(run["regularizer"] for run in runs):
        done = [run for run in runs if run["regularizer"] == arm and run["failure"] is None]
        failed = [run for run in runs if run["regularizer"] == arm and run["failure"] is not None]
        row = [arm + (f" ({len(failed)} of {len(failed) + len(done)} failed)" if failed else "")]
        for key in list(_COLUMNS.values())[1:]:
            values = [run[key] for run in done if run[key] is not None]
            row.append(_shown(statistics.fmean(values), key) if values else "-")
        rows.append(row)
    return markdown_table(rows)


def _shown(value: float, key: str) -> str:
    return f"{value:.4g}" if key == "penalty" else f"{value:.2f}"


def _quoted(path: Path) -> str:
    """A path as a value of Hydra's grammar, in which brackets and commas mean something."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _run_one(arm: str, seed: int, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "ortho_lightning.experiments.train", *overrides),
        *(
            f"regularizer={arm}",
            f"seed={seed}",
            f"hydra.run.dir={_quoted(folder)}",
            "trainer.enable_progress_bar=false",
        ),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    with log.open("w") as output:
        # with the whole stack trace the last line of the log is the error itself
        environment = {**os.environ, "HYDRA_FULL_ERROR": "1"}
        status = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT, check=False, env=environment
        ).returncode
    run: dict[str, Any] = {"regularizer": arm, "seed": seed, "failure": None}
    if status != 0:
        last = [line for line in log.read_text().splitlines() if line.strip()]
        run["failure"] = f"exit status {status}: {last[-1] if last else 'no output'} (see {log})"
        return run
    return {**run, **summarize(json.loads((folder / "results.json").read_text()))}


def run(config: DictConfig, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """Run every arm with every seed, and write ``results.json`` and ``results.csv`` under ``config.run_dir``.

    Args:
        config: the composed configuration, with ``seeds`` and ``regularizers``.
        overrides: those of the command line, which every run gets.
    """
    folder = Path(config.run_dir).resolve()
    seeds, arms = list(config.seeds), list(config.regularizers)
    if not seeds or not arms:
        raise ConfigurationError(f"seeds={seeds}, regularizers={arms}: name at least one of each")
    known = {path.stem for path in Path(conf_dir(), "regularizer").glob("*.yaml")}
    unknown = [arm for arm in arms if arm not in known]
    if unknown:
        raise ConfigurationError(f"regularizers={unknown}: there are {sorted(known)}")
    shared = [text for text in overrides if text.lstrip("+~").split("=")[0] not in _OWN]
    runs = []
    # seeds outermost: a comparison cut short has compared whole seeds
    for number, (seed, arm) in enumerate([(seed, arm) for seed in seeds for arm in arms], start=1):
        print(f"[{number}/{len(seeds) * len(arms)}] {arm}, seed {seed} ...", flush=True)
        runs.append(_run_one(arm, seed, shared, folder / f"{arm}-seed{seed}"))
        write_json(folder / "results.json", runs)
    write_csv(folder / "results.csv", runs)
    return runs


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="compare")
@plain_errors
def main(config: DictConfig) -> None:
    try:
        runs = run(config, HydraConfig.get().overrides.task)
    except KeyboardInterrupt:
        print(f"\ninterrupted; what is finished is in {config.run_dir}")
        raise SystemExit(130) from None
    print("\n" + table(runs))
    print("\n" + _LEGEND.format(seeds=len(config.seeds)))
    failed = [one for one in runs if one["failure"] is not None]
    for one in failed:
        print(f"failed: {one['regularizer']}, seed {one['seed']}: {one['failure']}")
    print(f"\nEverything of each run, with TensorBoard's event files, in {config.run_dir}")
    if failed:
        raise SystemExit(1)
