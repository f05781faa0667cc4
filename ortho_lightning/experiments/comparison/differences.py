"""Paired differences with their intervals and tests, corrected together by Holm."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeVar

from ortho_lightning.experiments.comparison import inference
from ortho_lightning.experiments.comparison.summary import Difference

_Key = TypeVar("_Key", bound=Hashable)


def corrected_differences(
    paired: Mapping[_Key, Sequence[float]], confidence: float, scale: float
) -> dict[_Key, Difference]:
    """Return the differences of one family of tests.

    Args:
        paired: the differences of the pairs by test, at least one each.
        confidence: of every interval.
        scale: size of the numbers that the differences were computed from, which tells a deviation from rounding.
    """
    found: dict[_Key, Difference] = {}
    tested: dict[_Key, tuple[float, float]] = {}
    for key, values in paired.items():
        one = Difference(**asdict(inference.describe(values, confidence, scale=scale)))
        if one.low is not None and one.std is not None:
            tested[key] = (inference.paired_p(values), one.std)
            one = replace(one, p=tested[key][0])
        found[key] = one
    alpha = 1 - confidence
    corrected, levels = inference.holm([p for p, _ in tested.values()], alpha)
    for (key, (_, std)), p_holm, level in zip(tested.items(), corrected, levels, strict=True):
        one = found[key]
        low, high = inference.mean_interval(one.mean, std, one.n, 1 - level)
        detectable = inference.detectable_difference(std, one.n, alpha / len(tested))
        found[key] = replace(one, p_holm=p_holm, low_holm=low, high_holm=high, detectable=detectable)
    return found
