"""The cost of a training step of each arm: measured once for a comparison, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from ortho_lightning.experiments.comparison import launching

COSTS = "costs.json"


@dataclass(frozen=True)
class StepCost:
    """Time and memory of a training step, and their ratios to those of the baseline; None where it was not measured."""

    step_ms: float | None = None
    ratio: float | None = None
    peak_mb: float | None = None
    peak_ratio: float | None = None


@dataclass(frozen=True)
class StepCosts:
    """The costs of a comparison's arms, and a description of the machine."""

    machine: Mapping[str, Any] = field(default_factory=dict)
    arms: Mapping[str, StepCost] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> StepCosts:
        """Read what was measured for the comparison in ``folder``; empty if nothing was."""
        path = folder / COSTS
        if not path.is_file():
            return cls()
        stored = json.loads(path.read_text())
        keys = [one.name for one in fields(StepCost)]
        costs = {arm: StepCost(**{key: cost.get(key) for key in keys}) for arm, cost in stored["arms"].items()}
        return cls(stored["machine"], costs)

    def relative_to(self, baseline: str) -> StepCosts:
        """Return the same costs with their ratios to an arm; without ratios, if that was not measured."""
        base = self.arms.get(baseline, StepCost())
        arms = {
            arm: replace(cost, ratio=_over(cost.ratio, base.ratio), peak_ratio=_over(cost.peak_ratio, base.peak_ratio))
            for arm, cost in self.arms.items()
        }
        return replace(self, arms=arms)


def _over(ratio: float | None, base: float | None) -> float | None:
    return None if ratio is None or base is None else ratio / base


def measure_costs(config: DictConfig, overrides: Sequence[str], folder: Path) -> None:
    """Measure the costs of all arms, unless they are known: in one process that trains the arms in turns."""
    if config.costs == 0 or set(config.regularizers) <= set(StepCosts.of(folder).arms):
        return
    print("measuring the cost of a step of each arm ...", flush=True)
    done = subprocess.run(
        launching.command("ortho_lightning.experiments.comparison.costs", overrides, folder),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=launching.environment(),
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        print(f"the cost of a step could not be measured: {lines[-1] if lines else done.returncode}", flush=True)
