"""Time and memory of training steps with a penalty, compared with the same steps without one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ortho_lightning.experiments.cost.arms import Arm, Pair, named_arm
from ortho_lightning.experiments.cost.cases import Case

# The standard error of a median over that of a mean, and a standard deviation over the median absolute deviation, both
# for normal errors.
_MEDIAN = math.sqrt(math.pi / 2)
_DEVIATION = 1.4826


@dataclass(frozen=True)
class Cost:
    """Cost of a training step of one arm. Times are medians; standard errors are robust, from absolute deviations.

    Attributes:
        step_ms: of a step, in milliseconds.
        own_ms: of the penalty in a step that has one.
        own_error: its standard error.
        ratio: time of a step divided by that of a step without a penalty.
        ratio_error: its standard error.
        cpu_ratio: the same in processor time; None on a GPU.
        cpu_error: its standard error.
        limit_ms: of the bare matrix products of a penalty that compares pairs of filters; None for others.
        peak_mb: most memory that a step holds, in 10^6 bytes.
        peak_ratio: over the peak of the first arm.
    """

    step_ms: float
    own_ms: float
    own_error: float
    ratio: float
    ratio_error: float
    cpu_ratio: float | None
    cpu_error: float | None
    limit_ms: float | None
    peak_mb: float
    peak_ratio: float


@dataclass(frozen=True)
class CaseCost(Cost, Case):
    """Cost of one arm in one case; a record of ``steps.json``. The fields are those of Case and Cost, and the arm."""

    arm: str


def measure(
    case: Case, arms: Sequence[str], rounds: int, options: dict[str, Any], compiled: bool = False
) -> list[CaseCost]:
    """Measure all arms of a case.

    Args:
        case: the network and the batch.
        arms: names, the first "none".
        rounds: see :func:`costs_of`.
        options: further arguments of the Trainer.
        compiled: compile the network.
    """
    network, batch = case.make()
    found = costs_of([named_arm(name, network, batch, options, compiled) for name in arms], rounds)
    return [CaseCost(**asdict(case), arm=name, **asdict(cost)) for name, cost in found.items()]


def costs_of(arms: Sequence[Arm], rounds: int) -> dict[str, Cost]:
    """Measure the cost of each arm.

    A penalty comes in every second step of one fit, and each penalized step is set beside its two neighbours. An arm
    that is the same in every step, such as a constraint, takes turns with the first arm instead.

    Args:
        arms: the arms to measure; the first has no penalty.
        rounds: penalized steps, or turns, of each arm.
    """
    peaks = {arm.name: arm.peak_bytes() for arm in arms}
    found: dict[str, Cost] = {}
    for arm in arms:
        if arm.spacing is None:
            pairs = [Pair(arm.step_time(), arms[0].step_time()) for _ in range(rounds)]
        else:
            pairs = arm.neighbours(rounds)
        found[arm.name] = _cost(pairs, arm.every, arm.limit(), peaks[arm.name], peaks[arms[0].name])
    return found


def _cost(pairs: Sequence[Pair], every: int, limit: float | None, peak: int, plain_peak: int) -> Cost:
    own, own_error = _median([1000 * (pair.own.wall - pair.plain.wall) for pair in pairs])
    ratio, ratio_error = _median([pair.own.wall / pair.plain.wall for pair in pairs])
    on_cpu = [pair.own.cpu / pair.plain.cpu for pair in pairs if pair.own.cpu and pair.plain.cpu]
    cpu, cpu_error = _median(on_cpu) if on_cpu else (None, None)
    plain = 1000 * statistics.median(pair.plain.wall for pair in pairs)

    def in_use(value: float) -> float:
        return 1 + (value - 1) / every

    return Cost(
        step_ms=plain * in_use(ratio),
        own_ms=own,
        own_error=own_error,
        ratio=in_use(ratio),
        ratio_error=ratio_error / every,
        cpu_ratio=None if cpu is None else in_use(cpu),
        cpu_error=None if cpu_error is None else cpu_error / every,
        limit_ms=None if limit is None else 1000 * limit,
        peak_mb=peak / 1e6,
        peak_ratio=peak / plain_peak,
    )


def _median(values: Sequence[float]) -> tuple[float, float]:
    """Return the median and its standard error."""
    middle = statistics.median(values)
    deviation = _DEVIATION * statistics.median(abs(value - middle) for value in values)
    return middle, _MEDIAN * deviation / math.sqrt(len(values))
