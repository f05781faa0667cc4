"""Figure and words on how well GradientShare held its share: the ratio of the gradients over whole trainings.

python -m ortho_lightning.experiments.training.shares RUN... --out shares.png

The runs are those of scripts/train.py with ``callbacks.orthogonality.log_every_n_steps=1``, so that the weight of every
step is known.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ortho_lightning.errors import DataError
from ortho_lightning.files import whole_file
from ortho_lightning.plots.palette import GREY, colour

FACTOR = 1.5
"""Around the share: the band of the figure."""
SETTLED = 10
"""Measurements from which on the ratio is judged."""


@dataclass(frozen=True)
class HeldShare:
    """The ratio of the gradients in one training.

    Attributes:
        name: of the run.
        share: that was asked for.
        steps: at which the ratio was measured.
        found: the ratios with the weight that was in use until then.
        kept: the ratios with the weight that was in use from then on.
    """

    name: str
    share: float
    steps: tuple[int, ...]
    found: tuple[float, ...]
    kept: tuple[float, ...]

    @property
    def off(self) -> float:
        """The largest factor between a ratio and the share, of the later measurements before they corrected it."""
        later = [found / self.share for found in self.found[SETTLED - 1 :]]
        return max((max(ratio, 1 / ratio) for ratio in later), default=float("nan"))


def read(folder: Path) -> HeldShare:
    """Read the ratios of a run.

    Raises:
        DataError: for a folder without them.
    """
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder}: no run of scripts/train.py is there")
    share = OmegaConf.select(OmegaConf.load(folder / "config.yaml"), "regularizer.weight.share")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    series = {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
        if tag in ("ortho/gradient_ratio", "ortho/weight")
    }
    if share is None or len(series) < 2:
        raise DataError(f"{folder}: no ratios of gradients; train with weight=GradientShare and logger=tensorboard")
    ratios, weights = series["ortho/gradient_ratio"], series["ortho/weight"]
    steps = [step for step in sorted(ratios) if step in weights]
    if len(steps) < len(ratios):
        raise DataError(
            f"{folder}: not every weight was logged; train with callbacks.orthogonality.log_every_n_steps=1"
        )
    before = [weights.get(step - 1, weights[step]) for step in steps]
    found = [ratios[step] * old / weights[step] for step, old in zip(steps, before, strict=True)]
    return HeldShare(folder.name, float(share), tuple(steps), tuple(found), tuple(ratios[step] for step in steps))


def save_figure(path: Path, runs: Sequence[HeldShare]) -> None:
    """Write a PNG with a panel for each run."""
    figure = Figure(figsize=(3.6 * len(runs), 3.2), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, run in zip(panels, runs, strict=True):
        panel.axhspan(run.share / FACTOR, run.share * FACTOR, color=GREY, alpha=0.15, lw=0, label=f"within {FACTOR:g}")
        panel.axhline(run.share, color=GREY, lw=1)
        panel.plot(run.steps, run.found, "o-", ms=3, lw=1, color=colour(0), label="as found")
        panel.plot(run.steps, run.kept, "-", lw=1.5, color=colour(1), label="as corrected")
        if len(run.steps) >= SETTLED:
            panel.axvline(run.steps[SETTLED - 1], color=GREY, lw=1, ls=":", label=f"{SETTLED}th measurement")
        panel.set_yscale("log")
        panel.set_xlabel("step")
        panel.set_title(run.name, fontsize=10)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("penalty's gradient / task's gradient")
    panels[0].legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure of some runs, and print how far each was off."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, default=Path("shares.png"))
    options = parser.parse_args(arguments)
    found = [read(folder) for folder in options.runs]
    save_figure(options.out, found)
    for run in found:
        print(
            f"{run.name}: {len(run.steps)} measurements in {run.steps[-1] + 1} steps; from the {SETTLED}th on at most "
            f"{run.off:.2f} times more or less than {run.share:g} before each correction"
        )


if __name__ == "__main__":
    main()
