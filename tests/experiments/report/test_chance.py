"""A comparison in which no arm has learnt anything says so first."""

import math

import pytest

from ortho_lightning.experiments.comparison import inference
from tests.experiments.synthetic import comparison, scores

TEN = {"accuracy": 0.1, "samples": 1000}


def sentence(*runs):
    return comparison([one for arm in runs for one in arm]).sentence


def test_the_interval_of_a_share_is_the_binomial_one():
    def below(k):
        return sum(math.comb(50, i) * 0.2**i * 0.8 ** (50 - i) for i in range(k + 1))

    low, high = (round(50 * end) for end in inference.share_interval(0.2, 50, 0.95))
    assert below(low - 1) < 0.025 <= below(low)
    assert below(high - 1) < 0.975 <= below(high)


def test_arms_at_chance_are_told_before_anything_else():
    text = sentence(scores("none", [0.09, 0.11, 0.1], chance=TEN), scores("lsh", [0.1, 0.02, 0.105], chance=TEN))
    assert text.startswith("Every arm is at chance: no mean test accuracy is above 11.90%")
    assert "(10.00% of 1000 test samples)" in text
    assert "With 3 seeds" in text  # the usual sentence follows


@pytest.mark.parametrize("chance", [TEN, None])
def test_one_arm_above_chance_or_an_unknown_chance_says_nothing(chance):
    learnt = 0.13 if chance else 0.1
    text = sentence(
        scores("none", [0.1, 0.1, 0.1], chance=chance), scores("lsh", [learnt, learnt, 0.131], chance=chance)
    )
    assert "chance" not in text


def test_an_unbalanced_test_set_has_a_higher_chance():
    runs = scores("none", [0.31, 0.3], chance={"accuracy": 0.3, "samples": 1000})
    assert sentence(runs).startswith("Every arm is at chance")
    assert "chance" not in sentence(scores("none", [0.31, 0.3], chance=TEN))


def test_failed_runs_do_not_count():
    failed = {"regularizer": "lsh", "seed": 0, "failure": "no"}
    assert sentence(scores("none", [0.1, 0.1], chance=TEN), [failed]).startswith("Every arm is at chance")
    assert "chance" not in sentence([failed])
