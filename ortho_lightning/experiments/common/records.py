"""The record of one run: what ``results.json`` holds, as dataclasses.

Reading is tolerant: what an earlier version did not write is None or empty, and keys that this version does not know
are kept.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]


@dataclass(frozen=True)
class EpochRecord:
    """Losses, accuracies, penalty and angles after one epoch, by name; None for what was not measured."""

    epoch: int
    values: Mapping[str, float | None]

    @classmethod
    def from_json(cls, stored: Json) -> EpochRecord:
        """Read an entry of ``history``."""
        return cls(stored["epoch"], {key: value for key, value in stored.items() if key != "epoch"})

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``history``."""
        return {"epoch": self.epoch, **self.values}


@dataclass(frozen=True)
class LayerRecord:
    """The angles of one layer after training.

    Args:
        name: of the layer.
        groups: of its filters.
        k: filters in a group.
        d: dimension of a filter.
        values: the angle report's numbers by name.
        counts: pairs of filters in each bin of filter angles.
        response_counts: the same of response angles, as they were measured last; empty where they were not.
    """

    name: str
    groups: int
    k: int
    d: int
    values: Mapping[str, float | None]
    counts: tuple[int, ...] = ()
    response_counts: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, stored: Json) -> LayerRecord:
        """Read an entry of ``layers``."""
        sizes = {"groups": stored.get("groups", 1), "k": stored.get("k", 0), "d": stored.get("d", 0)}
        histograms = ("counts", "response_counts")
        values = {key: value for key, value in stored.items() if key not in ("name", *sizes, *histograms)}
        counts, response_counts = (tuple(stored.get(key) or ()) for key in histograms)
        return cls(stored["name"], **sizes, values=values, counts=counts, response_counts=response_counts)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``layers``."""
        sizes = {"groups": self.groups, "k": self.k, "d": self.d}
        histograms = {"counts": list(self.counts), "response_counts": list(self.response_counts)}
        return {"name": self.name, **sizes, **self.values, **histograms}


@dataclass(frozen=True)
class BestEpoch:
    """The epoch of the best validation accuracy, and the test accuracy of its weights."""

    epoch: int | None
    val_accuracy: float | None
    test_accuracy: float | None

    @classmethod
    def from_json(cls, stored: Json) -> BestEpoch:
        """Read the value of ``best``."""
        return cls(stored.get("epoch"), stored.get("val_accuracy"), stored.get("test_accuracy"))


@dataclass(frozen=True)
class Chance:
    """The share of the most frequent class among the test labels, and the number of test samples."""

    accuracy: float
    samples: int


@dataclass(frozen=True)
class RunRecord:
    """The results of one run, or the reason why there are none.

    Args:
        regularizer: the arm.
        seed: of everything random.
        failure: why the run left no results; None for a finished one.
        test_accuracy: with the weights of the last epoch, a fraction; None if nothing was tested.
        val_accuracy: of the last epoch that was validated, a fraction.
        penalty: of the last step, before its weight.
        step_ms: median time of a training step in milliseconds.
        steps: of the optimizer.
        layers: the angles of each selected layer.
        robustness: test accuracy on perturbed data, by the name of the perturbation.
        best: the epoch with the best validation accuracy; None if its weights were not kept.
        history: one record per epoch.
        start: hashes of the initial weights and of the first batch.
        chance: the test accuracy of the same answer to every sample; None if it is not known.
        others: values of keys that this version does not know.
    """

    regularizer: str
    seed: int
    failure: str | None = None
    test_accuracy: float | None = None
    val_accuracy: float | None = None
    penalty: float | None = None
    step_ms: float | None = None
    steps: int | None = None
    layers: tuple[LayerRecord, ...] = ()
    robustness: Mapping[str, float] = field(default_factory=dict)
    best: BestEpoch | None = None
    history: tuple[EpochRecord, ...] = ()
    start: Mapping[str, str] | None = None
    chance: Chance | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, stored: Json) -> RunRecord:
        """Read ``results.json`` of a run, or one of the ``runs`` of a comparison."""
        best, chance = stored.get("best"), stored.get("chance")
        parts: dict[str, Any] = {
            "layers": tuple(map(LayerRecord.from_json, stored.get("layers") or ())),
            "robustness": dict(stored.get("robustness") or {}),
            "best": BestEpoch.from_json(best) if best else None,
            "chance": Chance(chance["accuracy"], chance["samples"]) if chance else None,
            "history": tuple(map(EpochRecord.from_json, stored.get("history") or ())),
            "others": {key: value for key, value in stored.items() if key not in _FIELDS},
        }
        return cls(**{key: stored[key] for key in _FIELDS if key in stored and key not in parts}, **parts)

    def results(self) -> dict[str, Any]:
        """Return what ``results.json`` of the run holds."""
        found = {key: getattr(self, key) for key in _FIELDS if key != "failure"}
        parts = {
            "layers": [layer.to_json() for layer in self.layers],
            "robustness": dict(self.robustness),
            "best": None if self.best is None else dataclasses.asdict(self.best),
            "chance": None if self.chance is None else dataclasses.asdict(self.chance),
            "history": [epoch.to_json() for epoch in self.history],
        }
        return {**found, **parts, **self.others}

    def to_json(self) -> dict[str, Any]:
        """Return the run's entry in ``results.json`` of a comparison."""
        if self.failure is not None and self.test_accuracy is None and not self.history:
            return {"regularizer": self.regularizer, "seed": self.seed, "failure": self.failure}
        return {"failure": self.failure, **self.results()}


_FIELDS = tuple(one.name for one in dataclasses.fields(RunRecord) if one.name != "others")


def without_nan(record: Json) -> dict[str, Any]:
    """Return the record with None for every number that is not finite, since JSON has no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
