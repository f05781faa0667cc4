"""What a summary's numbers say in words, and what they cannot say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ortho_lightning.experiments.comparison.inference import FEWEST

FEW = 8
"""Below so many seeds a note says that small gains are invisible."""
_NOTHING = 1e-9  # points: a difference by rounding

Run = Mapping[str, Any]
Arm = dict[str, Any]


def sentence(summary: Mapping[str, Any]) -> str:
    """One sentence: which arms differ from the baseline in test accuracy, by Holm's corrected p, and which do not."""
    arms = summary["arms"]
    tested = [arm for arm in arms if _accuracy(arm)["n"]]
    if not any(arm["runs"] > len(arm["failed"]) for arm in arms):
        return "No run finished, so nothing was found."
    if not tested:
        return "No run has a test accuracy, so nothing is compared."
    baseline = next((arm for arm in tested if arm["arm"] == summary["baseline"]), None)
    compared = [arm for arm in arms if arm["difference"] is not None]
    if baseline is None or not compared:
        reached = ", ".join(_reached(arm, summary["confidence"]) for arm in tested)
        return f"With {seeds(_accuracy(arm)['n'] for arm in tested)}, {reached}; there is nothing to compare with."
    start = f"With {seeds(arm['difference']['n'] for arm in compared)}, "
    return start + "; ".join([*_verdicts(compared, summary), *_power(compared)]) + "."


def seeds(numbers: Any) -> str:
    """How many seeds, as one number or as a range."""
    low, high = min(found := list(numbers)), max(found)
    return f"{low} seed{'s' if low != 1 else ''}" if low == high else f"{low} to {high} seeds"


def p_text(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _reached(arm: Arm, confidence: float) -> str:
    figure = _accuracy(arm)
    text = f"{arm['arm']} reached a test accuracy of {figure['mean']:.2f}%"
    if figure["low"] is None:
        return text
    return text + f" ({100 * confidence:g}% interval {figure['low']:.2f} to {figure['high']:.2f})"


def _verdicts(compared: list[Arm], summary: Mapping[str, Any]) -> Iterator[str]:
    """A clause for each arm that is better or worse, then one for each kind of arms of which that cannot be said."""
    baseline, alpha = summary["baseline"], 1 - summary["confidence"]
    tests = sum(arm["difference"]["p"] is not None for arm in compared)
    level = f"{'corrected ' if tests > 1 else ''}{100 * summary['confidence']:g}% interval"
    unseen: list[tuple[str, str]] = []
    same: list[tuple[str, str]] = []
    equal: list[tuple[str, str]] = []
    few: list[tuple[str, str]] = []
    for arm in compared:
        difference = arm["difference"]
        mean = f"{difference['mean']:+.2f} points"
        if difference["p"] is None:
            kind = few if difference["n"] < FEWEST else same if abs(difference["mean"]) < _NOTHING else equal
            kind.append((arm["arm"], mean))
            continue
        between = f"{level} {difference['low_holm']:+.2f} to {difference['high_holm']:+.2f}"
        between += f", {p_text(difference['p_holm'])}"
        if difference["p_holm"] < alpha:
            better = "better" if difference["mean"] > 0 else "worse"
            yield f"{arm['arm']} was {better} than {baseline} in test accuracy: {mean} ({between})"
        else:
            unseen.append((arm["arm"], f"{mean} ({between})"))
    for kind, said in (
        (unseen, f"showed no difference from {baseline} in test accuracy"),
        (same, f"had the accuracy of {baseline} with every seed"),
        (equal, f"differed from {baseline} by the same amount with every seed, which no test can judge"),
        (few, f"cannot be told from {baseline} by so few seeds"),
    ):
        if kind:
            yield f"{listed([name for name, _ in kind])} {said}: {', '.join(text for _, text in kind)}"


def _power(compared: list[Arm]) -> Iterator[str]:
    limits = [arm["difference"]["detectable"] for arm in compared if arm["difference"]["detectable"] is not None]
    if limits:
        texts = dict.fromkeys(f"{limit:.2f}" for limit in (min(limits), max(limits)))
        depends = ", depending on the arm," if len(texts) == 2 else ""
        yield f"a true difference below {' to '.join(texts)} points{depends} could easily have gone unseen"


def listed(names: list[str]) -> str:
    """Names in words: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def notes(
    summary: Mapping[str, Any],
    finished: Mapping[str, Mapping[int, Run]],
    figures: Mapping[str, Mapping[int, Mapping[str, float | None]]],
    baseline: str,
) -> list[str]:
    """What a reader must know before believing the summary; the runs behind it are ``finished``."""
    arms = summary["arms"]
    return [
        *_about_baseline(summary, baseline),
        *_about_failures(arms),
        *_about_numbers(arms),
        *_about_spread(arms, summary),
        *_about_losses(finished),
        *_about_starts(finished, summary["baseline"]),
        *_about_target(figures, summary["target"]),
    ]


def _about_baseline(summary: Mapping[str, Any], baseline: str) -> Iterator[str]:
    if summary["baseline"] is None:
        yield f"There is no arm {baseline}, so no arm is compared with another."
        return
    tested = [arm for arm in summary["arms"] if _accuracy(arm)["n"]]
    if baseline not in [arm["arm"] for arm in tested]:
        return
    for arm in tested:
        if arm["arm"] != baseline and arm["difference"] is None:
            yield f"{arm['arm']} and {baseline} have no seed with a test accuracy in common, so they are not compared."


def _about_failures(arms: list[Arm]) -> Iterator[str]:
    for arm in arms:
        failed = ", ".join(str(one["seed"]) for one in arm["failed"])
        if failed and len(arm["failed"]) < arm["runs"]:
            yield (
                f"{arm['arm']}: {len(arm['failed'])} of {arm['runs']} runs failed (seed {failed}); its figures are "
                "those of the others, which flatters an arm that fails where training is hard."
            )
        elif failed:
            yield f"{arm['arm']}: every run failed."


def _about_numbers(arms: list[Arm]) -> Iterator[str]:
    counts = {arm["arm"]: _accuracy(arm)["n"] for arm in arms if _accuracy(arm)["n"]}
    few = [f"{arm} ({seeds([n])})" for arm, n in counts.items() if n < FEWEST]
    if few:
        yield f"Fewer than {FEWEST} seeds give no interval and no test: {listed(few)}."
    if counts and min(counts.values()) < FEW:
        yield (
            f"With fewer than {FEW} seeds small gains are invisible: the spread between seeds hides them, whether they "
            "are there or not."
        )
    for arm in arms:
        if arm["difference"] is not None and arm["difference"]["n"] >= FEWEST and arm["difference"]["low"] is None:
            yield (
                f"{arm['arm']}: its difference was the same with all {arm['difference']['n']} seeds, so there is no "
                "spread to make an interval or a test from."
            )


def _about_spread(arms: list[Arm], summary: Mapping[str, Any]) -> Iterator[str]:
    said = False
    confidence = f"{100 * summary['confidence']:g}% interval"
    for arm in arms:
        spread = arm["spread"]
        if spread is None or spread.get("ratio") is None:
            continue
        said = True
        low, high = spread["ratio_low"], spread["ratio_high"]
        text = (
            f"Between seeds {arm['arm']} spread {spread['ratio']:.2f} times as much as {summary['baseline']} "
            f"({confidence} {low:.2f} to {high:.2f}, taking the arms for independent): "
        )
        if low <= 1 <= high:
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


def _about_losses(finished: Mapping[str, Mapping[int, Run]]) -> Iterator[str]:
    for arm, of_arm in finished.items():
        diverged = [str(seed) for seed, run in of_arm.items() if _diverged(run)]
        if diverged:
            yield (
                f"{arm}: the loss was no number in the end with seed {', '.join(diverged)}; the accuracies count as "
                "they are."
            )


def _diverged(run: Run) -> bool:
    # where a training's loss was no number, its history has none: JSON knows no NaN
    losses = [epoch.get("train_loss", 0.0) for epoch in run.get("history") or []]
    return bool(losses) and (losses[-1] is None or not math.isfinite(losses[-1]))


def _about_starts(finished: Mapping[str, Mapping[int, Run]], baseline: str | None) -> Iterator[str]:
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
            own, others = run.get("start"), other.get("start")
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


def _about_target(
    figures: Mapping[str, Mapping[int, Mapping[str, float | None]]], target: float | None
) -> Iterator[str]:
    if target is None:
        return
    epochs = [run["epochs_to_target"] for of_arm in figures.values() for run in of_arm.values()]
    if epochs and all(epoch == 1 for epoch in epochs):
        yield (
            f"Every run was at the target of {100 * target:.2f}% after its first epoch, so the epochs to it tell "
            "nothing: give a higher target."
        )
    for arm, of_arm in figures.items():
        never = [str(seed) for seed, run in of_arm.items() if run["epochs_to_target"] is None]
        if never:
            yield (
                f"{arm} did not reach the validation accuracy of {100 * target:.2f}% with seed {', '.join(never)}: its "
                "epochs to the target are those of the other seeds, so they look fewer than they are."
            )


def _accuracy(arm: Arm) -> dict[str, Any]:
    figure: dict[str, Any] = arm["figures"]["test_accuracy"]
    return figure
