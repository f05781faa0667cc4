"""The findings of a comparison in words, and their limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison.inference import FEWEST
from ortho_lightning.experiments.comparison.measures import finished_by_arm, run_measures
from ortho_lightning.experiments.comparison.summary import ArmSummary, Difference, Summary
from ortho_lightning.experiments.report.style import MOST_ARMS

FEW = 8
"""Below this number of seeds a note says that small gains cannot be detected."""
MOST_NAMED = 5
"""Arms that one sentence names with their numbers; of more it gives their number and range."""
_NOTHING = 1e-9  # points: a difference by rounding

Finished = Mapping[str, Mapping[int, RunRecord]]
Arms = Sequence[ArmSummary]


def sentence(summary: Summary) -> str:
    """Say in one sentence which arms differ from the baseline, by Holm's corrected p, and which do not."""
    tested = [arm for arm in summary.arms if arm.accuracy.n]
    if not any(arm.finished for arm in summary.arms):
        return "No run finished, so there is no result."
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
    """Return the limits of the summary that a reader must know.

    Args:
        summary: of ``runs``.
        runs: failed ones too.
        baseline: the arm to compare with, which may be missing.
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
        *_about_figures(summary),
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
        ("unseen", f"showed no significant difference from {baseline} in test accuracy"),
        ("same", f"had the same accuracy as {baseline} with every seed"),
        ("equal", f"differed from {baseline} by the same amount with every seed, which no test can judge"),
        ("few", f"cannot be compared with {baseline} on so few seeds"),
    ):
        texts = undecided[kind]
        if len(texts) > MOST_NAMED:
            means = [differences[arm].mean for arm in texts]
            yield f"{len(texts)} arms {said}: {min(means):+.2f} to {max(means):+.2f} points"
        elif texts:
            yield f"{listed([*texts])} {said}: {', '.join(texts.values())}"


def _power(differences: Iterable[Difference]) -> Iterator[str]:
    limits = [one.detectable for one in differences if one.detectable is not None]
    if limits:
        texts = dict.fromkeys(f"{limit:.2f}" for limit in (min(limits), max(limits)))
        depends = ", depending on the arm," if len(texts) == 2 else ""
        yield f"a true difference below {' to '.join(texts)} points{depends} may have been missed"


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
                f"{arm.arm}: {len(arm.failed)} of {arm.runs} runs failed (seed {failed}); its results are those of "
                "the other runs, which are too good if an arm fails with difficult seeds."
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
            f"With fewer than {FEW} seeds small gains cannot be detected: they are smaller than the variation "
            "between seeds."
        )
    for arm in arms:
        if arm.difference is not None and arm.difference.n >= FEWEST and arm.difference.low is None:
            yield (
                f"{arm.arm}: its difference was the same with all {arm.difference.n} seeds, so no interval and no test "
                "can be computed."
            )


def _about_deviations(summary: Summary) -> Iterator[str]:
    tests = sum(arm.deviation is not None and arm.deviation.p is not None for arm in summary.arms)
    confidence = f"{'corrected ' if tests > 1 else ''}{100 * summary.confidence:g}% interval"
    undecided: dict[str, str] = {}
    decided: list[str] = []
    for arm in summary.arms:
        one = arm.deviation
        if one is None or one.ratio is None or one.p_holm is None:
            continue
        text = (
            f"The standard deviation between seeds of {arm.arm} was {one.ratio:.2f} times that of {summary.baseline} "
            f"({confidence} {one.ratio_low:.2f} to {one.ratio_high:.2f}, {p_text(one.p_holm)}): "
        )
        if one.p_holm < 1 - summary.confidence:
            decided.append(text + f"{arm.arm} was {'less' if one.ratio > 1 else 'more'} stable.")
        else:
            undecided[arm.arm] = text + "this does not show that either is more stable."
    if len(undecided) > MOST_NAMED:
        yield (
            f"Of {len(undecided)} arms the interval of the ratio of the standard deviation between seeds to that of "
            f"{summary.baseline} includes 1: this does not show that any of them is more or less stable."
        )
    else:
        yield from undecided.values()
    yield from decided
    if not undecided and not decided:
        yield (
            "A few seeds cannot prove that an arm is more stable than another; here not even an interval can be "
            "computed."
        )


def _about_losses(finished: Finished) -> Iterator[str]:
    for arm, of_arm in finished.items():
        diverged = [str(seed) for seed, run in of_arm.items() if _diverged(run)]
        if diverged:
            yield (
                f"{arm}: the loss of the last epoch was not finite with seed {', '.join(diverged)}; the accuracies "
                "are used unchanged."
            )


def _diverged(run: RunRecord) -> bool:
    # where a training's loss was no number, its history has none: JSON knows no NaN
    loss = run.history[-1].values.get("train_loss", 0.0) if run.history else 0.0
    return loss is None or not math.isfinite(loss)


def _about_starts(finished: Finished, baseline: str | None) -> Iterator[str]:
    """Whether runs with the same seed started with the same weights and the same first batch."""
    if len(finished) < 2:
        return
    reference = baseline if baseline is not None and finished[baseline] else next(iter(finished))
    unknown = []
    for arm, of_arm in finished.items():
        seeds: dict[str, list[int]] = {}
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
                seeds.setdefault(listed(unequal), []).append(seed)
        for unequal_parts, those in seeds.items():
            yield (
                f"Not paired: {arm} and {reference} started differently with seed {', '.join(map(str, those))} "
                f"(different {unequal_parts}); the paired test then has no advantage from the shared seed."
            )
    if unknown:
        yield f"It was not recorded whether these started like {reference}: {listed(unknown)}."


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
            f"Every run was at the target of {100 * target:.2f}% after its first epoch, so the epochs to the target "
            "cannot be compared: set a higher target."
        )
    for arm, of_arm in epochs.items():
        never = [str(seed) for seed, epoch in of_arm.items() if epoch is None]
        if never:
            yield (
                f"{arm} did not reach the validation accuracy of {100 * target:.2f}% with seed {', '.join(never)}: its "
                "epochs to the target are those of the other seeds, so their mean is too small."
            )


def _about_figures(summary: Summary) -> Iterator[str]:
    if len(summary.arms) > MOST_ARMS:
        which = "the first" if summary.baseline is None else "the baseline and the best"
        yield f"Figures have lines for {MOST_ARMS} of {len(summary.arms)} arms, {which}; the tables have all."
