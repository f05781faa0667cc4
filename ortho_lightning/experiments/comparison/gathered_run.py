"""A run among others that were gathered, and in what such runs may differ."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.records import RunRecord

OF_ARM = (
    "regularizer.",
    "callbacks.orthogonality.",
    "callbacks.constraint",
    "callbacks.best.",
    "callbacks.last.",
    "model.kernel_optimizer",
)
"""The beginnings of the keys in which arms differ."""
_OF_SEED_AND_PLACE = ("seed", "data.seed", "data.root", "data.cache_dir")


@dataclass(frozen=True)
class GatheredRun:
    """A run and its configuration.

    Args:
        folder: of the run.
        record: of the run, under the full name of its arm.
        arm: the name of the arm without those values that are not of the penalty.
        configuration: what makes the run the one that it is, by dotted names; None if it failed before it began.
    """

    folder: Path
    record: RunRecord
    arm: str
    configuration: dict[str, Any] | None


def distinct(values: Iterable[Any]) -> list[Any]:
    """Return values of configurations, which may be lists, without those that equal an earlier one."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found


def check_equal(
    first: GatheredRun, other: GatheredRun, besides: Collection[str] = (), beginnings: tuple[str, ...] = ()
) -> None:
    """Reject two runs that differ in more than the seed, the place of the data and some keys.

    Args:
        first: a run with a configuration.
        other: another one.
        besides: keys in which they may differ.
        beginnings: of such keys.

    Raises:
        ConfigurationError: naming the runs and the keys.
    """
    free = {*_OF_SEED_AND_PLACE, *besides}
    own, others = first.configuration or {}, other.configuration or {}
    differing = [
        key
        for key in {**own, **others}
        if key not in free and not key.startswith(beginnings) and own.get(key) != others.get(key)
    ]
    if differing:
        shown = ", ".join(f"{key} ({own.get(key)} and {others.get(key)})" for key in differing[:5])
        raise ConfigurationError(f"{first.folder} and {other.folder} cannot be compared: they differ in {shown}")
