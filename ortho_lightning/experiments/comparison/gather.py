"""Finished runs, made on one machine or on many, gathered from their folders."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.archive import is_archive, unpack
from ortho_lightning.experiments.comparison.available import BASELINE, check_baseline
from ortho_lightning.experiments.comparison.run_folder import configuration_of, label_of, record_of, runs_under

# Where the configurations of compared runs may differ: within an arm, and between arms.
_OF_SEED_AND_PLACE = {"seed", "data.seed", "data.root", "data.cache_dir"}
_OF_ARM = (
    "regularizer.",
    "callbacks.orthogonality.",
    "callbacks.constraint",
    "callbacks.best.",
    "callbacks.last.",
    "model.kernel_optimizer",
)


@dataclass(frozen=True)
class ComparedRuns:
    """The runs that a comparison reports.

    Args:
        folder: of the comparison, where the report goes.
        experiment: the name of what is compared.
        overrides: of the command that asked for the comparison.
        folders: of the runs.
        records: of the runs.
    """

    folder: Path
    experiment: str
    overrides: Sequence[str]
    folders: Sequence[Path]
    records: Sequence[RunRecord]


def gather(config: DictConfig, overrides: Sequence[str]) -> ComparedRuns:
    """Gather the runs under the folder ``config.gather``, or in that archive, which is unpacked under ``run_dir``.

    Raises:
        ConfigurationError: if there are none, or they cannot be compared.
    """
    folder = Path(config.gather).expanduser().resolve()
    if is_archive(folder):
        archive, folder = folder, Path(config.run_dir).resolve() / folder.stem
        unpack(archive, folder)
    found = find_runs(folder)
    records = gathered(found, [*(config.by or ()), *(config.factors or ())])
    check_baseline(config.baseline, list(dict.fromkeys(record.regularizer for record in records)))
    return ComparedRuns(folder, experiment_of(found), overrides, found, records)


def find_runs(folder: Path) -> list[Path]:
    """Return the folders of runs anywhere under ``folder``: finished ones, and those that a comparison began.

    Raises:
        ConfigurationError: if there is none.
    """
    runs = runs_under(folder)
    if not runs:
        raise ConfigurationError(f"gather={folder}: there are no runs of train or compare in it")
    return runs


def gathered(folders: Sequence[Path], by: Sequence[str] = ()) -> list[RunRecord]:
    """Return the records of runs, one for each arm and seed, by seed and then in the order of the arms.

    Args:
        folders: of the runs.
        by: keys of the configuration, each of whose values makes an arm of its own, as in a sweep.

    Raises:
        ConfigurationError: for runs that cannot be compared, two different ones of the same arm and seed, or a key that
            no run has.
    """
    configurations = {folder: _as_asked_for(folder) for folder in folders}
    known = [own for own in configurations.values() if own is not None]
    short = {key: _short(own[key] for own in known if key in own) for key in by}
    found = {folder: _named(record_of(folder), configurations[folder] or {}, short) for folder in folders}
    unknown = [key for key in by if not any(key in own for own in known)]
    if unknown:
        raise ConfigurationError(f"by={unknown[0]!r}: no run has this key in its configuration")
    _check_alike({folder: record.regularizer for folder, record in found.items()}, configurations, by)
    records: dict[tuple[str, int], tuple[Path, RunRecord]] = {}
    for folder, record in found.items():
        key = (record.regularizer, record.seed)
        if key in records and not _same(records[key][1], record):
            if record.failure is not None:
                continue
            if records[key][1].failure is None:
                raise ConfigurationError(
                    f"{records[key][0]} and {folder} are different runs of {key[0]} with seed {key[1]}: remove one"
                )
        records[key] = (folder, record)
    arms = sorted({arm for arm, _ in records}, key=lambda arm: (arm != BASELINE, arm))
    return [records[key][1] for key in sorted(records, key=lambda key: (key[1], arms.index(key[0])))]


def _as_asked_for(folder: Path) -> dict[str, Any] | None:
    """Return the configuration of a run in which a value that was asked for by a reference, as ${seed}, still is one.

    So the runs of an arm may start from checkpoints whose paths name the seed.
    """
    own = configuration_of(folder)
    for text in label_of(folder).overrides:
        key, _, value = text.lstrip("+").partition("=")
        if own is not None and key in own and "${" in value:
            own[key] = value
    return own


def _short(values: Iterable[Any]) -> dict[str, str]:
    """Return a name for each value: of paths, what is left without the parts that all of them share."""
    texts = list(dict.fromkeys(str(value) for value in values))
    if len(texts) == 1 or not any("/" in text for text in texts):
        return {text: text for text in texts}
    parts = [re.split("([/-])", text) for text in texts]
    spare = min(map(len, parts)) - 1  # each keeps a part
    first = min(_shared(parts), spare)
    last = min(_shared([one[::-1] for one in parts]), spare - first)
    return {text: "".join(one[first : len(one) - last]) for text, one in zip(texts, parts, strict=True)}


def _shared(texts: Sequence[Sequence[str]]) -> int:
    """The number of parts with which all texts begin."""
    return sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*texts, strict=False)))


def _named(record: RunRecord, own: Mapping[str, Any], short: Mapping[str, Mapping[str, str]]) -> RunRecord:
    """Return the record with the run's values of some keys in the name of its arm; the baseline has no penalty's."""
    keys = [key for key in short if key in own and not (record.regularizer == BASELINE and key.startswith(_OF_ARM))]
    values = [f"{key.rpartition('.')[2]}={short[key][str(own[key])]}" for key in keys]
    return replace(record, regularizer=" ".join([record.regularizer, *values]))


def experiment_of(folders: Sequence[Path]) -> str:
    """Return the experiment of gathered runs; runs of scripts/train.py do not record theirs."""
    names = {label_of(folder).experiment for folder in folders}
    return ", ".join(sorted(str(name) for name in names if name is not None)) or "gathered runs"


def _same(first: RunRecord, second: RunRecord) -> bool:
    # the time of a step is never the same twice
    return replace(first, step_ms=None) == replace(second, step_ms=None)


def _check_alike(
    arms: Mapping[Path, str], configurations: Mapping[Path, dict[str, Any] | None], by: Sequence[str]
) -> None:
    """Reject runs of an arm that differ in more than the seed, and arms that differ in more than what makes one."""
    by_arm: dict[str, tuple[Path, dict[str, Any]]] = {}
    first: tuple[Path, dict[str, Any]] | None = None
    settings = {setting.split("=")[0] for folder in arms for setting in label_of(folder).settings}.union(by)
    for folder, arm in arms.items():
        own = configurations[folder]
        if own is None:
            continue  # failed before it began
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
