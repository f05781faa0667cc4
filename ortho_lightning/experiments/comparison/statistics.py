"""The summary of a comparison's runs: means and intervals over seeds, and paired differences to a baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import stdev

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.records import LayerRecord, RunRecord
from ortho_lightning.experiments.comparison import inference
from ortho_lightning.experiments.comparison.differences import corrected_differences
from ortho_lightning.experiments.comparison.inference import Estimate
from ortho_lightning.experiments.comparison.measures import (
    COMPARED,
    LAYER_MEASURES,
    MEASURES,
    METRIC,
    ROBUSTNESS_PREFIX,
    Seeds,
    by_arm,
    common_target,
    failure_of,
    finished_by_arm,
    mean,
    numbers,
    run_measures,
)
from ortho_lightning.experiments.comparison.summary import (
    ArmSummary,
    Difference,
    FailedRun,
    LayerOfArm,
    LayerSummary,
    SeedDeviation,
    Summary,
)


def check_settings(confidence: float, target: float | None) -> None:
    """Reject what :func:`summarize` cannot use, before anything is trained.

    Raises:
        ConfigurationError: for a confidence or a target outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ConfigurationError(f"confidence={confidence}: must lie between 0 and 1, as 0.95 does")
    if target is not None and not 0 < target <= 1:
        raise ConfigurationError(f"target={target}: a validation accuracy as a fraction, 0.75 for 75%")


def summarize(
    runs: Sequence[RunRecord], baseline: str = "none", confidence: float = 0.95, target: float | None = None
) -> Summary:
    """Summarize the runs of a comparison.

    An interval needs three seeds that do not all agree; where there is none, its ends are None.

    Args:
        runs: of all arms, failed ones too. Of several with the same arm and seed the last counts.
        baseline: the arm that the others are compared with; if it is not there, nothing is compared.
        confidence: of every interval.
        target: validation accuracy, a fraction, to which the epochs are counted. None: the highest that every finished
            run reaches, that is, the lowest of their best.

    Returns:
        The numbers alone; ``report.findings`` puts them into words.

    Raises:
        ConfigurationError: see :func:`check_settings`.
    """
    check_settings(confidence, target)
    arms, finished = by_arm(runs), finished_by_arm(runs)
    if target is None:
        target = common_target(run for seeds in finished.values() for run in seeds.values())
    measured = {
        arm: {seed: run_measures(run, target) for seed, run in seeds.items()} for arm, seeds in finished.items()
    }
    compared = baseline if baseline in arms else None
    names = _names(measured)
    described = _described(measured, names, confidence)
    differences = _differences(measured, METRIC, compared, confidence)
    perturbed = [name for name in names if name.startswith(ROBUSTNESS_PREFIX)]
    others = {name: _differences(measured, name, compared, confidence) for name in (*COMPARED, *perturbed)}
    accuracies = {arm: measures[METRIC] for arm, measures in described.items()}
    deviations = _deviations(measured, accuracies, compared, confidence)
    return Summary(
        metric=METRIC,
        baseline=compared,
        confidence=confidence,
        seeds=tuple(dict.fromkeys(run.seed for run in runs)),
        target=target,
        arms=tuple(
            ArmSummary(
                arm=arm,
                runs=len(seeds),
                failed=_failed(seeds),
                measures=described[arm],
                difference=differences.get(arm),
                deviation=deviations.get(arm),
                others={name: found[arm] for name, found in others.items() if arm in found},
            )
            for arm, seeds in arms.items()
        ),
        layers=tuple(_layers(finished)),
    )


def _failed(seeds: Mapping[int, RunRecord]) -> tuple[FailedRun, ...]:
    reasons = {seed: failure_of(run) for seed, run in seeds.items()}
    return tuple(FailedRun(seed, reason) for seed, reason in reasons.items() if reason is not None)


def _described(
    measured: Mapping[str, Seeds], names: Sequence[str], confidence: float
) -> dict[str, dict[str, Estimate]]:
    """Each measure of each arm over its seeds; those of the robustness tests that any arm has."""
    return {
        arm: {
            name: inference.describe(numbers(measures.get(name) for measures in seeds.values()), confidence)
            for name in names
        }
        for arm, seeds in measured.items()
    }


def _names(measured: Mapping[str, Seeds]) -> list[str]:
    """The names of all measures: the fixed ones, then those of the runs' robustness tests."""
    found = (name for seeds in measured.values() for measures in seeds.values() for name in measures)
    return list(dict.fromkeys((*MEASURES, *found)))


def _differences(
    measured: Mapping[str, Seeds], name: str, baseline: str | None, confidence: float
) -> dict[str, Difference]:
    """The paired difference of a measure to the baseline, by arm; none without a common seed."""
    if baseline is None:
        return {}
    sizes = [abs(value) for seeds in measured.values() for value in numbers(own.get(name) for own in seeds.values())]
    paired = {arm: _paired(seeds, measured[baseline], name) for arm, seeds in measured.items() if arm != baseline}
    some = {arm: values for arm, values in paired.items() if values}
    return corrected_differences(some, confidence, scale=max(sizes)) if some else {}


def _paired(own: Seeds, other: Seeds, name: str) -> list[float]:
    """The differences of a measure with the seeds that have it in both arms."""
    return [first - second for first, second in _pairs(own, other, name)]


def _pairs(own: Seeds, other: Seeds, name: str) -> list[tuple[float, float]]:
    """A measure of two arms with the seeds that have it in both."""
    pairs = [(own[seed].get(name), measures.get(name)) for seed, measures in other.items() if seed in own]
    return [(first, second) for first, second in pairs if first is not None and second is not None]


def _deviations(
    measured: Mapping[str, Seeds], described: Mapping[str, Estimate], baseline: str | None, confidence: float
) -> dict[str, SeedDeviation]:
    """The standard deviation of the metric between seeds, by arm, and its ratio to the baseline's."""
    found: dict[str, SeedDeviation] = {}
    paired: dict[str, tuple[list[float], list[float]]] = {}
    p_values: dict[str, float] = {}
    for arm, one in described.items():
        if one.std is None:
            continue
        ends = (None, None) if one.low is None else inference.std_interval(one.std, one.n, confidence)
        found[arm] = SeedDeviation(one.std, *ends)
        if baseline is None or arm == baseline:
            continue
        pairs = _pairs(measured[arm], measured[baseline], METRIC)
        first, second = [own for own, _ in pairs], [other for _, other in pairs]
        if all(inference.describe(values, confidence).low is not None for values in (first, second)):
            found[arm] = replace(found[arm], ratio=stdev(first) / stdev(second))
            p = inference.paired_std_p(first, second)
            if p is not None:
                paired[arm], p_values[arm] = (first, second), p
    corrected, levels = inference.holm(list(p_values.values()), 1 - confidence)
    for (arm, p), p_holm, level in zip(p_values.items(), corrected, levels, strict=True):
        low, high = inference.paired_std_ratio_interval(*paired[arm], 1 - level)
        found[arm] = replace(found[arm], ratio_low=low, ratio_high=high, p=p, p_holm=p_holm)
    return found


def _layers(finished: Mapping[str, Mapping[int, RunRecord]]) -> Iterable[LayerSummary]:
    """Each layer's measures as means over the seeds of each arm, and the pairs in each bin added up."""
    collected: dict[str, dict[str, list[LayerRecord]]] = {}
    for arm, seeds in finished.items():
        for run in seeds.values():
            for layer in run.layers:
                collected.setdefault(layer.name, {}).setdefault(arm, []).append(layer)
    for name, arms in collected.items():
        first = next(iter(arms.values()))[0]
        yield LayerSummary(
            name=name,
            groups=first.groups,
            k=first.k,
            d=first.d,
            welch_floor=first.values.get("welch_floor"),
            null_std=first.values.get("null_std"),
            arms={arm: _of_arm(layers) for arm, layers in arms.items()},
        )


def _of_arm(layers: Sequence[LayerRecord]) -> LayerOfArm:
    measures = {one.name: mean(layer.values.get(one.name) for layer in layers) for one in LAYER_MEASURES}
    return LayerOfArm(
        measures,
        counts=_added(layer.counts for layer in layers),
        response_counts=_added(layer.response_counts for layer in layers),
    )


def _added(histograms: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Add up the bins of those histograms that are not empty."""
    return tuple(map(sum, zip(*(counts for counts in histograms if counts), strict=True)))
