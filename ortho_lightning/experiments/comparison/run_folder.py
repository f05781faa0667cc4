"""The files of a run's folder: its label, its results, or the reason why there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.nested import flat
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.training.resume import exact_identity
from ortho_lightning.files import write_json

LABEL = "run.json"
FAILURE = "failure.json"
RESULTS = "results.json"
CONFIG = "config.yaml"
VERSIONS = "versions.json"
UNFINISHED = "not finished"


@dataclass(frozen=True)
class RunLabel:
    """What a comparison writes about a run before the run begins; empty for other runs.

    Args:
        experiment: the name of what is compared.
        regularizer: the arm.
        seed: of everything random.
        settings: the overrides that are the arm's own.
        overrides: all overrides of the training.
    """

    experiment: str | None = None
    regularizer: str | None = None
    seed: int | None = None
    settings: Sequence[str] = ()
    overrides: Sequence[str] = ()


def runs_under(folder: Path) -> list[Path]:
    """Return the folders of runs anywhere under ``folder``: finished ones, and those that a comparison began."""
    found = {path.parent for name in (LABEL, RESULTS) for path in folder.rglob(name)}
    return sorted(path for path in found if (path / CONFIG).is_file() or (path / LABEL).is_file())


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of runs anywhere under ``folder``, as :func:`runs_under` does.

    Raises:
        ConfigurationError: if there is none.
    """
    runs = runs_under(folder)
    if not runs:
        raise ConfigurationError(f"{folder}: there are no runs of train or compare in it")
    return runs


def write_label(folder: Path, label: RunLabel) -> None:
    """Write ``run.json``."""
    write_json(folder / LABEL, asdict(label))


def label_of(folder: Path) -> RunLabel:
    """Read ``run.json``."""
    stored = _read(folder / LABEL) or {}
    return RunLabel(**{one.name: stored[one.name] for one in fields(RunLabel) if one.name in stored})


def write_failure(folder: Path, reason: str) -> None:
    """Write ``failure.json``."""
    write_json(folder / FAILURE, {"reason": reason})


def record_of(folder: Path, arm: str | None = None, seed: int | None = None) -> RunRecord:
    """Read the record of the run in a folder: its results, or the reason why there are none.

    Args:
        folder: of the run.
        arm: of the run; None: as the folder says.
        seed: of the run; None: as the folder says.
    """
    label = label_of(folder)
    given = {"regularizer": label.regularizer if arm is None else arm, "seed": label.seed if seed is None else seed}
    results = _read(folder / RESULTS)
    if results is None:
        failure = _read(folder / FAILURE)
        results = {**given, "failure": UNFINISHED if failure is None else failure["reason"]}
    return RunRecord.from_json({**results, **{key: value for key, value in given.items() if value is not None}})


def is_finished(folder: Path) -> bool:
    """Return whether the run has left its results."""
    return (folder / RESULTS).is_file()


def epochs_done(folder: Path) -> int:
    """Return the number of epochs in the run's history."""
    try:
        return len(json.loads((folder / "history.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return 0


def config_written(folder: Path) -> float | None:
    """Return when the run wrote its configuration, which it does right before it trains, in seconds of the clock."""
    path = folder / CONFIG
    return path.stat().st_mtime if path.is_file() else None


def configuration_of(folder: Path) -> dict[str, Any] | None:
    """Return what makes the run the one that it is, by dotted names; None if it failed before it began."""
    path = folder / CONFIG
    return identity_of(OmegaConf.load(path)) if path.is_file() else None


def identity_of(config: DictConfig | ListConfig) -> dict[str, Any]:
    """Return what makes the training of a configuration the one that it is, by dotted names."""
    return flat(exact_identity(OmegaConf.to_container(config, resolve=True)))


def commits_of(folders: Sequence[Path]) -> list[str]:
    """Return the commits that the runs were made at, sorted."""
    return sorted({commit for commit in _commits(folders) if commit})


def _commits(folders: Sequence[Path]) -> Iterator[str | None]:
    for folder in folders:
        versions = _read(folder / VERSIONS)
        if versions is not None:
            yield versions["git"]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
