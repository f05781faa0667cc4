"""The findings of a comparison in words, and their limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.inference import FEWEST
from ortho_lightning.experiments.comparison.measures import finished_by_arm, run_measures
from ortho_lightning.experiments.comparison.summary import ArmSummary, Difference, Summary

FEW = 8
"""Below so many seeds a note says that small gains are invisible."""
_NOTHING = 1e-9  # points: a difference by rounding

Finished = Mapping[str, Mapping[int, RunRecord]]
Arms = Sequence[ArmSummary]


def sentence(summary: Summary) -> str:
    """Say in one sentence which arms differ from the baseline, by Holm's corrected p, and which do not."""
    tested = [arm for arm in summary.arms if arm.accuracy.n]
    if not any(arm.finished for arm in summary.arms):
        return "No run finished, so nothing was found."
    if not tested:
        return "No run has a test accuracy, so nothing is compared."
    differences = {arm.arm: arm.difference for arm in summary.arms if arm.difference is not None}
    if not any(arm.arm == summary.baseline for arm in tested) or not differences:
        reached = ", ".join(_reached(arm, summary.confidence) for arm in tested)
        return f"With {seeds(arm.accuracy.n for arm in tested)}, {reached}; there is nothing to compare with."
    start = f"With {seeds(one.n for one in differences.values())}, "
    return start + "; ".join([*_verdicts(differences, summary), *_power(differences.values())]) + "."


def seeds(numbers: Iterable[int]) -> str:
    """Return how many seeds, as one number or as a range."""
    low, high = min(found := list(numbers)), max(found)
    return f"{low} seed{'s' if low != 1 else ''}" if low == high else f"{low} to {high} seeds"


def p_text(p: float) -> str:
    """Return a p value as a sentence gives it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def listed(names: Sequence[str]) -> str:
    """Return names in words: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def notes(summary: Summary, runs: Sequence[RunRecord], baseline: str) -> list[str]:
    """Return what a reader must know before believing the summary.

    Args:
        summary: of ``runs``.
        runs: failed ones too.
        baseline: the arm that was to be compared with, also if it is not there.
    """
    finished = finished_by_arm(runs)
    return [
        *_about_baseline(summary, baseline),
        *_about_failures(summary.arms),
        *_about_numbers(summary.arms),
        *_about_deviations(summary),
        *_about_losses(finished),
        *_about_starts(finished, summary.baseline),
        *_about_target(finished, summary.target),
    ]


def _reached(arm: ArmSummary, confidence: float) -> str:
    one = arm.accuracy
    text = f"{arm.arm} reached a test accuracy of {one.mean:.2f}%"
    return text if one.low is None else text + f" ({100 * confidence:g}% interval {one.low:.2f} to {one.high:.2f})"


def _verdicts(differences: Mapping[str, Difference], summary: Summary) -> Iterator[str]:
    """A clause for each arm that is better or worse, then one for each kind of arms of which that cannot be said."""
    baseline = summary.baseline
    tests = sum(one.p is not None for one in differences.values())
    level = f"{'corrected ' if tests > 1 else ''}{100 * summary.confidence:g}% interval"
    undecided: dict[str, dict[str, str]] = {"unseen": {}, "same": {}, "equal": {}, "few": {}}
    for arm, one in differences.items():
        text = f"{one.mean:+.2f} points"
        if one.p_holm is None:
            kind = "few" if one.n < FEWEST else "same" if abs(one.mean) < _NOTHING else "equal"
            undecided[kind][arm] = text
            continue
        text += f" ({level} {one.low_holm:+.2f} to {one.high_holm:+.2f}, {p_text(one.p_holm)})"
        if one.p_holm < 1 - summary.confidence:
            better = "better" if one.mean > 0 else "worse"
            yield f"{arm} was {better} than {baseline} in test accuracy: {text}"
        else:
            undecided["unseen"][arm] = text
    for kind, said in (
        ("unseen", f"showed no difference from {baseline} in test accuracy"),
        ("same", f"had the accuracy of {baseline} with every seed"),
        ("equal", f"differed from {baseline} by the same amount with every seed, which no test can judge"),
        ("few", f"cannot be told from {baseline} by so few seeds"),
    ):
        if undecided[kind]:
            yield f"{listed([*undecided[kind]])} {said}: {', '.join(undecided[kind].values())}"


def _power(differences: Iterable[Difference]) -> Iterator[str]:
    limits = [one.detectable for one in differences if one.detectable is not None]
    if limits:
        texts = dict.fromkeys(f"{limit:.2f}" for limit in (min(limits), max(limits)))
        depends = ", depending on the arm," if len(texts) == 2 else ""
        yield f"a true difference below {' to '.join(texts)} points{depends} could easily have gone unseen"


def _about_baseline(summary: Summary, baseline: str) -> Iterator[str]:
    if summary.baseline is None:
        yield f"There is no arm {baseline}, so no arm is compared with another."
        return
    tested = [arm for arm in summary.arms if arm.accuracy.n]
    if summary.baseline not in [arm.arm for arm in tested]:
        return
    for arm in tested:
        if arm.arm != summary.baseline and arm.difference is None:
            yield (
                f"{arm.arm} and {summary.baseline} have no seed with a test accuracy in common, so they are not "
                "compared."
            )


def _about_failures(arms: Arms) -> Iterator[str]:
    for arm in arms:
        failed = ", ".join(str(one.seed) for one in arm.failed)
        if failed and arm.finished:
            yield (
                f"{arm.arm}: {len(arm.failed)} of {arm.runs} runs failed (seed {failed}); its figures are "
                "those of the others, which flatters an arm that fails where training is hard."
            )
        elif failed:
            yield f"{arm.arm}: every run failed."


def _about_numbers(arms: Arms) -> Iterator[str]:
    counts = {arm.arm: arm.accuracy.n for arm in arms if arm.accuracy.n}
    few = [f"{arm} ({seeds([n])})" for arm, n in counts.items() if n < FEWEST]
    if few:
        yield f"Fewer than {FEWEST} seeds give no interval and no test: {listed(few)}."
    if counts and min(counts.values()) < FEW:
        yield (
            f"With fewer than {FEW} seeds small gains are invisible: the spread between seeds hides them, whether they "
            "are there or not."
        )
    for arm in arms:
        if arm.difference is not None and arm.difference.n >= FEWEST and arm.difference.low is None:
            yield (
                f"{arm.arm}: its difference was the same with all {arm.difference.n} seeds, so there is no "
                "spread to make an interval or a test from."
            )


def _about_deviations(summary: Summary) -> Iterator[str]:
    said = False
    confidence = f"{100 * summary.confidence:g}% interval"
    for arm in summary.arms:
        one = arm.deviation
        if one is None or one.ratio is None or one.ratio_low is None or one.ratio_high is None:
            continue
        said = True
        text = (
            f"Between seeds {arm.arm} spread {one.ratio:.2f} times as much as {summary.baseline} "
            f"({confidence} {one.ratio_low:.2f} to {one.ratio_high:.2f}, taking the arms for independent): "
        )
        if one.ratio_low <= 1 <= one.ratio_high:
            yield text + "that does not show either to be more stable."
        else:
            yield (
                text + "suggestive, but uncorrected for the number of arms, and a handful of seeds proves no stability."
            )
    if not said:
        yield (
            "A handful of seeds cannot prove that an arm is more stable than another; here there is not even an "
            "interval to give."
        )


def _about_losses(finished: Finished) -> Iterator[str]:
    for arm, of_arm in finished.items():
        diverged = [str(seed) for seed, run in of_arm.items() if _diverged(run)]
        if diverged:
            yield (
                f"{arm}: the loss was no number in the end with seed {', '.join(diverged)}; the accuracies count as "
                "they are."
            )


def _diverged(run: RunRecord) -> bool:
    # where a training's loss was no number, its history has none: JSON knows no NaN
    loss = run.history[-1].values.get("train_loss", 0.0) if run.history else 0.0
    return loss is None or not math.isfinite(loss)


def _about_starts(finished: Finished, baseline: str | None) -> Iterator[str]:
    """Whether runs with the same seed began with the same weights and the same first batch."""
    if len(finished) < 2:
        return
    reference = baseline if baseline is not None and finished[baseline] else next(iter(finished))
    unknown = []
    for arm, of_arm in finished.items():
        for seed, run in of_arm.items():
            other = finished[reference].get(seed)
            if arm == reference or other is None:
                continue
            own, others = run.start, other.start
            if not own or not others:
                unknown.append(f"{arm} (seed {seed})")
                continue
            unequal = [key for key in sorted({*own, *others}) if own.get(key) != others.get(key)]
            if unequal:
                yield (
                    f"Not paired: {arm} did not start as {reference} did with seed {seed} (other {listed(unequal)}); "
                    "the paired test then gains nothing from the shared seed."
                )
    if unknown:
        yield f"Whether these started as {reference} did was not recorded: {listed(unknown)}."


def _about_target(finished: Finished, target: float | None) -> Iterator[str]:
    if target is None:
        return
    epochs = {
        arm: {seed: run_measures(run, target)["epochs_to_target"] for seed, run in of_arm.items()}
        for arm, of_arm in finished.items()
    }
    every = [epoch for of_arm in epochs.values() for epoch in of_arm.values()]
    if every and all(epoch == 1 for epoch in every):
        yield (
            f"Every run was at the target of {100 * target:.2f}% after its first epoch, so the epochs to it tell "
            "nothing: give a higher target."
        )
    for arm, of_arm in epochs.items():
        never = [str(seed) for seed, epoch in of_arm.items() if epoch is None]
        if never:
            yield (
                f"{arm} did not reach the validation accuracy of {100 * target:.2f}% with seed {', '.join(never)}: its "
                "epochs to the target are those of the other seeds, so they look fewer than they are."
            )
