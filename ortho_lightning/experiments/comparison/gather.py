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
from ortho_lightning.experiments.common.invocation import override_key
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.archive import is_archive, unpack
from ortho_lightning.experiments.comparison.available import BASELINE, check_baseline
from ortho_lightning.experiments.comparison.factorial import Factorial
from ortho_lightning.experiments.comparison.gathered_run import OF_ARM, GatheredRun, check_equal, distinct
from ortho_lightning.experiments.comparison.run_folder import configuration_of, find_runs, label_of, record_of

Names = Sequence[tuple[Any, str]]
"""The values of a key, each with its name."""


@dataclass(frozen=True)
class ComparedRuns:
    """The runs that a comparison reports.

    Args:
        folder: of the comparison, where the report goes.
        experiment: the name of what is compared.
        overrides: of the command that asked for the comparison.
        folders: of the runs.
        records: of the runs.
        baseline: the arm that the others are compared with.
        factorial: the runs by the factors that they have or lack; None where no factors were named.
    """

    folder: Path
    experiment: str
    overrides: Sequence[str]
    folders: Sequence[Path]
    records: Sequence[RunRecord]
    baseline: str = BASELINE
    factorial: Factorial | None = None


def gather(config: DictConfig, overrides: Sequence[str]) -> ComparedRuns:
    """Gather the runs under the folder ``config.gather``, or in that archive, which is unpacked under ``run_dir``.

    With ``config.factors``, ``config.baseline`` may also be an arm without their values: its runs that have every
    factor are then the baseline.

    Raises:
        ConfigurationError: if there are none, or they cannot be compared.
    """
    folder = Path(config.gather).expanduser().resolve()
    if is_archive(folder):
        archive, folder = folder, Path(config.run_dir).resolve() / folder.stem
        unpack(archive, folder)
    found = find_runs(folder)
    by, factors = list(config.by or ()), list(config.factors or ())
    runs = gathered_runs(found, by, factors)
    arms = {run.record.regularizer: run.arm for run in runs}
    baseline, factorial = config.baseline, None
    if factors:
        factorial = Factorial.of(runs, factors, by, baseline=arms.get(baseline, baseline))
        if baseline not in arms:
            baseline = factorial.with_all(baseline, runs)
    check_baseline(baseline, list(arms))
    records = [run.record for run in runs]
    return ComparedRuns(folder, experiment_of(found), overrides, found, records, baseline, factorial)


def gathered(folders: Sequence[Path], by: Sequence[str] = ()) -> list[RunRecord]:
    """Return the records of runs, one for each arm and seed; see :func:`gathered_runs`."""
    return [run.record for run in gathered_runs(folders, by)]


def gathered_runs(folders: Sequence[Path], by: Sequence[str] = (), factors: Sequence[str] = ()) -> list[GatheredRun]:
    """Return runs, one for each arm and seed, by seed and then in the order of the arms.

    Args:
        folders: of the runs.
        by: keys of the configuration, each of whose values makes an arm of its own, as in a sweep.
        factors: further keys of this kind.

    Raises:
        ConfigurationError: for runs that cannot be compared, two different ones of the same arm and seed, or a key that
            no run has.
    """
    configurations = {folder: _as_asked_for(folder) for folder in folders}
    known = [own for own in configurations.values() if own is not None]
    for option, keys in (("by", by), ("factors", factors)):
        unknown = [key for key in keys if not any(key in own for own in known)]
        if unknown:
            raise ConfigurationError(f"{option}={unknown[0]!r}: no run has this key in its configuration")
    short = {key: _short(own[key] for own in known if key in own) for key in [*by, *factors]}
    runs = [_run(folder, configurations[folder], short) for folder in folders]
    _check_alike(runs, [*by, *factors])
    found: dict[tuple[str, int], GatheredRun] = {}
    for run in runs:
        key = (run.record.regularizer, run.record.seed)
        if key in found and not _same(found[key].record, run.record):
            if run.record.failure is not None:
                continue
            if found[key].record.failure is None:
                raise ConfigurationError(
                    f"{found[key].folder} and {run.folder} are different runs of {key[0]} with seed {key[1]}: remove "
                    "one"
                )
        found[key] = run
    arms = sorted({arm for arm, _ in found}, key=lambda arm: (arm != BASELINE, arm))
    return [found[key] for key in sorted(found, key=lambda key: (key[1], arms.index(key[0])))]


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


def _short(values: Iterable[Any]) -> Names:
    """Return a name for each value: of paths, what is left without the parts that all of them share.

    Equal values have one name, that of the first, as 0 and 0.0.
    """
    found = distinct(values)
    texts = list(dict.fromkeys(map(str, found)))
    if len(texts) == 1 or not any("/" in text for text in texts):
        return [(value, str(value)) for value in found]
    parts = [re.split("([/-])", text) for text in texts]
    spare = min(map(len, parts)) - 1  # each keeps a part
    first = min(_shared(parts), spare)
    last = min(_shared([one[::-1] for one in parts]), spare - first)
    short = {text: "".join(one[first : len(one) - last]) for text, one in zip(texts, parts, strict=True)}
    return [(value, short[str(value)]) for value in found]


def _shared(texts: Sequence[Sequence[str]]) -> int:
    """The number of parts with which all texts begin."""
    return sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*texts, strict=False)))


def _run(folder: Path, own: dict[str, Any] | None, short: Mapping[str, Names]) -> GatheredRun:
    """Return the run in a folder, with values in the name of its arm; the baseline has none of a penalty."""
    record = record_of(folder)
    values = {
        key: f"{key.rpartition('.')[2]}={name}"
        for key, names in short.items()
        if own is not None and key in own and not (record.regularizer == BASELINE and key.startswith(OF_ARM))
        for value, name in names
        if value == own[key]
    }
    of_arm = [text for key, text in values.items() if key.startswith(OF_ARM)]
    full, arm = (" ".join([record.regularizer, *texts]) for texts in (values.values(), of_arm))
    return GatheredRun(folder, replace(record, regularizer=full), arm, own)


def experiment_of(folders: Sequence[Path]) -> str:
    """Return the experiment of gathered runs; runs of scripts/train.py do not record theirs."""
    names = {label_of(folder).experiment for folder in folders}
    return ", ".join(sorted(str(name) for name in names if name is not None)) or "gathered runs"


def _same(first: RunRecord, second: RunRecord) -> bool:
    # the time of a step is never the same twice
    return replace(first, step_ms=None) == replace(second, step_ms=None)


def _check_alike(runs: Sequence[GatheredRun], by: Sequence[str]) -> None:
    """Reject runs of an arm that differ in more than the seed, and arms that differ in more than what makes one."""
    by_arm: dict[str, GatheredRun] = {}
    first: GatheredRun | None = None
    own = {override_key(setting) for run in runs for setting in label_of(run.folder).settings}
    free = (*OF_ARM, *(f"{key}." for key in own))
    for run in runs:
        if run.configuration is None:
            continue  # failed before it began
        check_equal(by_arm.setdefault(run.record.regularizer, run), run)
        first = first or run
        check_equal(first, run, besides=own.union(by), beginnings=free)
