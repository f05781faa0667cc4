"""The finding that no arm is above chance."""

from __future__ import annotations

from collections.abc import Sequence

from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison import inference
from ortho_lightning.experiments.comparison.measures import finished_by_arm, mean


def at_chance(runs: Sequence[RunRecord], confidence: float) -> str | None:
    """Say that every arm is at chance, or return None where one is above it or chance is not known.

    Chance is the accuracy of the most frequent class as the answer to every sample; guessing at random reaches less.
    An arm is at chance if its mean accuracy is not above the interval of an answer that is right so often.

    Args:
        runs: failed ones too.
        confidence: of the interval.
    """
    finished = [run for seeds in finished_by_arm(runs).values() for run in seeds.values()]
    tested = [run for run in finished if run.test_accuracy is not None]
    chances = {run.chance for run in tested}
    chance = chances.pop() if len(chances) == 1 else None
    if chance is None:
        return None
    _, limit = inference.share_interval(chance.accuracy, chance.samples, confidence)
    arms = dict.fromkeys(run.regularizer for run in tested)
    reached = [mean(run.test_accuracy for run in tested if run.regularizer == arm) for arm in arms]
    if any(one is None or one > limit for one in reached):
        return None
    return (
        f"Every arm is at chance: no mean test accuracy is above {100 * limit:.2f}%, the upper end of the "
        f"{100 * confidence:g}% interval of always answering with the most frequent class "
        f"({100 * chance.accuracy:.2f}% of {chance.samples} test samples). Differences "
        "between arms say little then: train longer, or check the learning rate and the data."
    )
