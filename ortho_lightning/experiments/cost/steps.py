"""Time and memory of training steps, measured arm by arm in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ortho_lightning.experiments.cost.arms import Arm, named_arm
from ortho_lightning.experiments.cost.cases import Case


@dataclass(frozen=True)
class Cost:
    """Cost of a training step of one arm.

    Attributes:
        step_ms: median over the rounds, in milliseconds.
        ratio: median over the rounds of the time over that of the first arm in the same round.
        peak_mb: in 10^6 bytes.
        peak_ratio: over the peak of the first arm.
    """

    step_ms: float
    ratio: float
    peak_mb: float
    peak_ratio: float


@dataclass(frozen=True)
class CaseCost:
    """Cost of one arm in one case; a record of ``steps.json``. The fields are those of Case and Cost."""

    network: str
    batch_size: int
    resolution: int
    width: int
    arm: str
    step_ms: float
    ratio: float
    peak_mb: float
    peak_ratio: float


def measure(case: Case, arms: Sequence[str], rounds: int, steps: int, options: dict[str, Any]) -> list[CaseCost]:
    """Measure all arms of a case.

    Args:
        case: the network and the batch.
        arms: names, the first "none".
        rounds: see :func:`alternate`.
        steps: see :func:`alternate`.
        options: further arguments of the Trainer.
    """
    network, batch = case.make()
    costs = alternate([named_arm(name, network, batch, options) for name in arms], rounds, steps)
    return [CaseCost(**asdict(case), arm=name, **asdict(cost)) for name, cost in costs.items()]


def alternate(arms: Sequence[Arm], rounds: int, steps: int) -> dict[str, Cost]:
    """Train the arms in turns, a few steps at a time, so that other work on the machine affects all alike.

    Args:
        arms: the arms to measure; the others are compared with the first.
        rounds: turns of each arm.
        steps: timed steps of a turn, of which the fastest counts.
    """
    peaks = {arm.name: arm.peak_bytes() for arm in arms}
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            times[arm.name].append(min(arm.step_times(steps)))
    first = arms[0].name
    return {
        name: Cost(
            step_ms=1000 * statistics.median(own),
            ratio=statistics.median(a / b for a, b in zip(own, times[first], strict=True)),
            peak_mb=peaks[name] / 1e6,
            peak_ratio=peaks[name] / peaks[first],
        )
        for name, own in times.items()
    }
