"""From the folders of runs, made on one machine or on many, to the results and the report of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import command_line
from ortho_lightning.experiments.comparison.plan import BASELINE
from ortho_lightning.experiments.comparison.runs import LABEL, RESULTS, exact_identity, flat, label_of, record_of
from ortho_lightning.experiments.comparison.statistics import summarize
from ortho_lightning.experiments.report.documents import write_report
from ortho_lightning.files import write_json

COSTS = "costs.json"
CONFIDENCE = 0.95
# Where the configurations of runs may differ that are compared: within an arm, and between arms.
_OF_SEED_AND_PLACE = {"seed", "data.seed", "data.root", "data.cache_dir"}
_OF_ARM = ("regularizer.", "callbacks.orthogonality.", "callbacks.best.", "callbacks.last.")
_MEASURED_TIMES = ("step_ms",)


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs anywhere under ``folder``: finished ones, and those that compare began.

    Raises:
        ConfigurationError: if there is none.
    """
    found = {path.parent for name in (LABEL, RESULTS) for path in folder.rglob(name)}
    runs = sorted(path for path in found if (path / "config.yaml").is_file() or (path / LABEL).is_file())
    if not runs:
        raise ConfigurationError(f"gather={folder}: there are no runs of train or compare in it")
    return runs


def gathered(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The records of runs, one for each arm and seed, by seed and then in the order of the arms.

    Raises:
        ConfigurationError: for runs that cannot be compared, or two different ones of the same arm and seed.
    """
    found = {folder: record_of(folder) for folder in folders}
    _check_alike({folder: record["regularizer"] for folder, record in found.items()})
    records: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for folder, record in found.items():
        key = (record["regularizer"], record["seed"])
        if key in records and not _same(records[key][1], record):
            if record["failure"] is not None:
                continue
            if records[key][1]["failure"] is None:
                raise ConfigurationError(
                    f"{records[key][0]} and {folder} are different runs of {key[0]} with seed {key[1]}: remove one"
                )
        records[key] = (folder, record)
    arms = sorted({arm for arm, _ in records}, key=lambda arm: (arm != BASELINE, arm))
    return [records[key][1] for key in sorted(records, key=lambda key: (key[1], arms.index(key[0])))]


def _same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(first.get(key) == second.get(key) for key in {**first, **second} if key not in _MEASURED_TIMES)


def _check_alike(arms: Mapping[Path, str]) -> None:
    """Refuse runs of an arm that differ in more than their seed, and arms that differ in more than what makes one."""
    by_arm: dict[str, tuple[Path, dict[str, Any]]] = {}
    first: tuple[Path, dict[str, Any]] | None = None
    settings = {setting.split("=")[0] for folder in arms for setting in label_of(folder).get("settings", ())}
    for folder, arm in arms.items():
        path = folder / "config.yaml"
        if not path.is_file():
            continue  # failed before it began
        own = flat(exact_identity(OmegaConf.to_container(OmegaConf.load(path))))
        own = {key: value for key, value in own.items() if key not in _OF_SEED_AND_PLACE}
        _check_equal(by_arm.setdefault(arm, (folder, own)), (folder, own))
        shared = {key: own[key] for key in own if key not in settings and not key.startswith(_OF_ARM)}
        first = first or (folder, shared)
        _check_equal(first, (folder, shared))


def _check_equal(first: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]]) -> None:
    differing = [key for key in {**first[1], **other[1]} if first[1].get(key) != other[1].get(key)]
    if differing:
        shown = ", ".join(f"{key} ({first[1].get(key)} and {other[1].get(key)})" for key in differing[:5])
        raise ConfigurationError(f"{first[0]} and {other[0]} cannot be compared: they differ in {shown}")


def experiment_of(folders: Sequence[Path]) -> str:
    """The experiment of gathered runs; runs of scripts/train.py do not tell theirs."""
    names = {label_of(folder).get("experiment") for folder in folders}
    return ", ".join(sorted(str(name) for name in names if name is not None)) or "gathered runs"


def read_costs(folder: Path) -> dict[str, Any]:
    """What a step of each arm costs as it was measured for the comparison in ``folder``, and on what; or nothing."""
    path = folder / COSTS
    return dict(json.loads(path.read_text())) if path.is_file() else {"machine": {}, "arms": {}}


def report(
    folder: Path,
    runs: Sequence[Path],
    records: list[dict[str, Any]],
    experiment: str,
    overrides: Sequence[str],
    target: float | None,
) -> dict[str, Any]:
    """Write ``results.json``, ``results.csv``, ``report.html`` and ``report.md`` of a comparison into ``folder``.

    Args:
        folder: of the comparison; what its runs cost is read from there.
        runs: the folders of the runs, whose commits and own settings are told.
        records: of the runs.
        experiment: its name.
        overrides: of the command that made it.
        target: the validation accuracy, in [0, 1], to which epochs are counted; None: one that every run reaches.

    Returns:
        What ``results.json`` holds.
    """
    arms = list(dict.fromkeys(record["regularizer"] for record in records))
    measured = read_costs(folder)
    versions = [run / "versions.json" for run in runs]
    commits = {json.loads(path.read_text())["git"] for path in versions if path.is_file()}
    tuned = {label.get("regularizer"): label["settings"] for label in map(label_of, runs) if label.get("settings")}
    content = {
        "settings": {
            "experiment": experiment,
            "command": command_line(overrides),
            "regularizers": arms,
            "seeds": sorted({record["seed"] for record in records}),
            "confidence": CONFIDENCE,
            "target": target,
            "tuned": tuned,
            "commits": sorted(commit for commit in commits if commit),
            "machine": measured["machine"],
        },
        "runs": records,
        "summary": summarize(records, baseline=BASELINE, confidence=CONFIDENCE, target=target),
        "costs": {arm: cost for arm, cost in measured["arms"].items() if arm in arms},
    }
    write_json(folder / RESULTS, content)
    write_report(folder, content)
    return content
