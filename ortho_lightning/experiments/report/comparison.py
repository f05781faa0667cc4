"""A whole comparison, as the report shows it and ``results.json`` holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ortho_lightning.experiments.common.provenance import command_line
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.factorial import Factorial, Replacement
from ortho_lightning.experiments.comparison.gather import ComparedRuns
from ortho_lightning.experiments.comparison.run_folder import commits_of, label_of
from ortho_lightning.experiments.comparison.statistics import summarize
from ortho_lightning.experiments.comparison.step_costs import StepCost, StepCosts
from ortho_lightning.experiments.comparison.summary import Summary
from ortho_lightning.experiments.report import factors, findings
from ortho_lightning.experiments.report.chance import at_chance

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ComparisonSettings:
    """How a comparison was made.

    Args:
        experiment: its name.
        command: that makes it again.
        regularizers: the arms, in the order of the runs.
        seeds: of all runs, sorted.
        baseline: the arm that the others are compared with, which may be missing.
        confidence: of the intervals.
        target: the validation accuracy that was asked for; None: the highest that every run reaches.
        arms: each arm's own settings, tuned or given.
        commits: that the runs were made at.
        machine: that the costs were measured on.
    """

    experiment: str
    command: str
    regularizers: Sequence[str]
    seeds: Sequence[int]
    baseline: str
    confidence: float = CONFIDENCE
    target: float | None = None
    arms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    commits: Sequence[str] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """Settings, runs, their summary, the costs by arm, and the factorial if there are factors."""

    settings: ComparisonSettings
    runs: Sequence[RunRecord]
    summary: Summary
    costs: Mapping[str, StepCost] = field(default_factory=dict)
    factorial: Factorial | None = None
    replacements: Sequence[Replacement] = ()

    @classmethod
    def of(cls, found: ComparedRuns, target: float | None) -> Comparison:
        """Summarize runs, with the costs measured in the comparison's folder.

        Args:
            found: the runs.
            target: the validation accuracy, in [0, 1], to which epochs are counted; None: one that every run reaches.
        """
        arms = list(dict.fromkeys(record.regularizer for record in found.records))
        measured = StepCosts.of(found.folder).relative_to(found.baseline)
        labels = [label_of(folder) for folder in found.folders]
        settings = ComparisonSettings(
            experiment=found.experiment,
            command=command_line(found.overrides),
            regularizers=arms,
            seeds=sorted({record.seed for record in found.records}),
            baseline=found.baseline,
            target=target,
            arms={str(label.regularizer): label.settings for label in labels if label.settings},
            commits=commits_of(found.folders),
            machine=measured.machine,
        )
        summary = summarize(found.records, baseline=found.baseline, confidence=CONFIDENCE, target=target)
        costs = {arm: cost for arm, cost in measured.arms.items() if arm in arms}
        replaced = [] if found.factorial is None else found.factorial.replacements(CONFIDENCE)
        return cls(settings, found.records, summary, costs, found.factorial, replaced)

    @property
    def sentence(self) -> str:
        """The result in one sentence, or one for each factor, after a warning if no arm is above chance."""
        warning = at_chance(self.runs, self.summary.confidence)
        plain = "" if self.factorial is None else self.factorial.baseline
        found = [*factors.sentences(self.replacements, plain)] or [findings.sentence(self.summary)]
        return " ".join(filter(None, [warning, *found]))

    @property
    def notes(self) -> list[str]:
        """The limits of the summary that a reader must know."""
        own = [] if self.factorial is None else factors.notes(self.factorial)
        return [*own, *findings.notes(self.summary, self.runs, self.settings.baseline)]

    def to_json(self) -> dict[str, Any]:
        """Return what ``results.json`` holds."""
        return {
            "settings": asdict(self.settings),
            "runs": [run.to_json() for run in self.runs],
            "summary": {**self.summary.to_json(), "sentence": self.sentence, "notes": self.notes},
            "costs": {arm: asdict(cost) for arm, cost in self.costs.items()},
            "replacements": [one.to_json() for one in self.replacements],
        }
