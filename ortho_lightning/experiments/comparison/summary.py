"""The summary of a comparison as dataclasses, and its form in ``results.json``.

Accuracies are in percent and their differences in points. Epochs are counted from 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ortho_lightning.experiments.comparison.inference import Estimate
from ortho_lightning.experiments.comparison.measures import METRIC, Measures


@dataclass(frozen=True)
class Difference(Estimate):
    """The difference of a measure to the baseline, paired over the seeds that both arms finished.

    Args:
        p: of the paired t test; None where there is none.
        p_holm: the same, corrected by Holm for the number of arms.
        low_holm: end of the interval at the level at which Holm's procedure judges the arm.
        high_holm: the other end.
        detectable: the true difference that so many pairs show with probability 0.8 at level ``(1 - confidence) / m``,
            the first step of the procedure over m arms.
    """

    mean: float  # there is at least one pair
    p: float | None = None
    p_holm: float | None = None
    low_holm: float | None = None
    high_holm: float | None = None
    detectable: float | None = None


@dataclass(frozen=True)
class SeedDeviation:
    """The standard deviation of the metric between seeds, and its ratio to the baseline's.

    Args:
        std: over all seeds of the arm.
        low: end of its chi-square interval.
        high: the other end.
        ratio: to the baseline's, over the seeds that both have.
        ratio_low: end of the interval of the ratio at the level at which Holm's procedure judges the arm.
        ratio_high: the other end.
        p: of the test of Pitman and Morgan for equal standard deviations of pairs.
        p_holm: the same, corrected by Holm for the number of arms.
    """

    std: float
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    p: float | None = None
    p_holm: float | None = None


@dataclass(frozen=True)
class FailedRun:
    """A run that left no accuracy; diverged runs are among them."""

    seed: int
    reason: str


@dataclass(frozen=True)
class ArmSummary:
    """The runs of one arm together.

    Args:
        arm: the regularizer's name.
        runs: their number, failed ones included.
        failed: those that left no accuracy.
        measures: each measure over the finished seeds, by name.
        difference: of the metric to the baseline; None for the baseline itself and for arms without a common seed.
        deviation: of the metric between seeds; None for fewer than two.
        others: differences of further measures by name, of those that both arms have; each measure is corrected for
            the number of arms by itself.
    """

    arm: str
    runs: int
    failed: tuple[FailedRun, ...]
    measures: Mapping[str, Estimate]
    difference: Difference | None
    deviation: SeedDeviation | None
    others: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def finished(self) -> int:
        """The number of finished runs."""
        return self.runs - len(self.failed)

    @property
    def accuracy(self) -> Estimate:
        """The measure that decides."""
        return self.measures[METRIC]

    def to_json(self) -> dict[str, Any]:
        """Return the arm's entry in ``results.json``."""
        return {
            "arm": self.arm,
            "runs": self.runs,
            "failed": [asdict(one) for one in self.failed],
            "figures": {name: asdict(one) for name, one in self.measures.items()},
            "difference": None if self.difference is None else asdict(self.difference),
            "spread": None if self.deviation is None else asdict(self.deviation),
            "other_differences": {name: asdict(one) for name, one in self.others.items()},
        }


@dataclass(frozen=True)
class LayerOfArm:
    """One layer in one arm: its measures as means over the seeds, and the pairs in each bin of angles added up.

    ``counts`` are those of filter angles, ``response_counts`` those of response angles, empty where they were not
    measured.
    """

    measures: Measures
    counts: tuple[int, ...]
    response_counts: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the arm's entry of the layer."""
        return {**self.measures, "counts": list(self.counts), "response_counts": list(self.response_counts)}


@dataclass(frozen=True)
class LayerSummary:
    """One layer in all arms: its sizes, what its angles are compared with, and its measures by arm."""

    name: str
    groups: int
    k: int
    d: int
    welch_floor: float | None
    null_std: float | None
    arms: Mapping[str, LayerOfArm]

    def to_json(self) -> dict[str, Any]:
        """Return the layer's entry in ``results.json``."""
        arms = {arm: one.to_json() for arm, one in self.arms.items()}
        sizes = {"groups": self.groups, "k": self.k, "d": self.d}
        references = {"welch_floor": self.welch_floor, "null_std": self.null_std}
        return {"name": self.name, **sizes, **references, "arms": arms}


@dataclass(frozen=True)
class Summary:
    """The numbers of a comparison.

    Args:
        metric: the name of the measure that decides.
        baseline: the arm that the others are compared with; None if it is not there.
        confidence: of every interval.
        seeds: of all runs, in their order.
        target: validation accuracy, a fraction, to which epochs are counted; None where nothing was validated.
        arms: in the order of the runs.
        layers: in the order of the network.
    """

    metric: str
    baseline: str | None
    confidence: float
    seeds: tuple[int, ...]
    target: float | None
    arms: tuple[ArmSummary, ...]
    layers: tuple[LayerSummary, ...]

    @property
    def arm_names(self) -> list[str]:
        """The arms in the order of the runs."""
        return [arm.arm for arm in self.arms]

    @property
    def ranked(self) -> tuple[ArmSummary, ...]:
        """The baseline, then the other arms by their difference to it, the highest first; those without one last."""

        def place(arm: ArmSummary) -> tuple[bool, bool, float]:
            compared = arm.difference is not None
            return arm.arm != self.baseline, not compared, -arm.difference.mean if arm.difference else 0.0

        return tuple(sorted(self.arms, key=place))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of ``summary`` in ``results.json``."""
        return {
            "metric": self.metric,
            "baseline": self.baseline,
            "confidence": self.confidence,
            "seeds": list(self.seeds),
            "target": self.target,
            "arms": [arm.to_json() for arm in self.arms],
            "layers": [layer.to_json() for layer in self.layers],
        }
