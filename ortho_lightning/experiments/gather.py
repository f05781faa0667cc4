"""From the folders of runs, made on one machine or on many, to the results and the report of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.plan import BASELINE
from ortho_lightning.experiments.provenance import command_line, machine, write_json
from ortho_lightning.experiments.report import write_report
from ortho_lightning.experiments.resume import identity
from ortho_lightning.experiments.runs import LABEL, RESULTS, record_of
from ortho_lightning.experiments.statistics import summarize

COSTS = "costs.json"
CONFIDENCE = 0.95
_SHARED = ("data", "trainer", "model.net")  # parts of the configuration that the runs of a comparison have in common
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
    _check_alike(folders)
    records: dict[tuple[str, int], tuple[Path, dict[str, Any]]] = {}
    for folder in folders:
        record = record_of(folder)
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


def _check_alike(folders: Sequence[Path]) -> None:
    first: tuple[Path, dict[str, Any]] | None = None
    for folder in folders:
        path = folder / "config.yaml"
        if not path.is_file():
            continue  # failed before it began
        config = OmegaConf.create(identity(OmegaConf.to_container(OmegaConf.load(path))))
        own = {part: OmegaConf.select(config, part) for part in _SHARED}
        if own["data"] is not None:
            own["data"] = {key: value for key, value in own["data"].items() if key not in ("seed", "root", "cache_dir")}
        if first is None:
            first = (folder, own)
        differing = [part for part in _SHARED if own[part] != first[1][part]]
        if differing:
            raise ConfigurationError(
                f"{first[0]} and {folder} cannot be compared: their {' and '.join(differing)} differ in config.yaml"
            )


def read_costs(folder: Path) -> dict[str, Any]:
    """What a step of each arm costs, as it was measured for the comparison in ``folder``; empty if it was not."""
    path = folder / COSTS
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def report(
    folder: Path,
    records: list[dict[str, Any]],
    experiment: str,
    overrides: Sequence[str],
    target: float | None,
    tuned: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Write ``results.json``, ``results.csv``, ``report.html`` and ``report.md`` of a comparison into ``folder``.

    Args:
        folder: of the comparison; what its runs cost is read from there.
        records: of the runs.
        experiment: its name.
        overrides: of the command that made it.
        target: the validation accuracy, in [0, 1], to which epochs are counted; None: one that every run reaches.
        tuned: the arms' own settings, where it is known that the runs had them.

    Returns:
        What ``results.json`` holds.
    """
    arms = list(dict.fromkeys(record["regularizer"] for record in records))
    versions = {path: json.loads(path.read_text()) for path in sorted(folder.rglob("versions.json"))}
    content = {
        "settings": {
            "experiment": experiment,
            "command": command_line(overrides),
            "regularizers": arms,
            "seeds": sorted({record["seed"] for record in records}),
            "confidence": CONFIDENCE,
            "target": target,
            "tuned": dict(tuned or {}),
            "commits": sorted({found["git"] for found in versions.values() if found.get("git")}),
            "machine": machine(),
        },
        "runs": records,
        "summary": summarize(records, baseline=BASELINE, confidence=CONFIDENCE, target=target),
        "costs": {arm: cost for arm, cost in read_costs(folder).items() if arm in arms},
    }
    write_json(folder / RESULTS, content)
    write_report(folder, content)
    return content
