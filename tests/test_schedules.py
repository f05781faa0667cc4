import math

import pytest

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.schedules import CosineDecay, LinearWarmup, MultiStep, Piecewise


def test_linear_warmup_rises_from_0_to_1_and_stays():
    schedule = LinearWarmup(fraction=0.5)
    assert [schedule(step, 8) for step in (0, 1, 2, 4, 8)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert [LinearWarmup(steps=4)(step, math.inf) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert LinearWarmup()(1, 6) == pytest.approx(0.5)


def test_cosine_decay_falls_from_1_to_final():
    schedule = CosineDecay(final=0.2)
    assert schedule(0, 10) == 1.0
    assert schedule(5, 10) == pytest.approx(0.6)
    assert schedule(10, 10) == pytest.approx(0.2)
    assert schedule(99, 10) == pytest.approx(0.2)


def test_multi_step_multiplies_at_each_milestone():
    schedule = MultiStep([0.5, 0.75], factor=0.1)
    assert [schedule(step, 100) for step in (49, 50, 75)] == pytest.approx([1.0, 0.1, 0.01])


def test_piecewise_takes_one_factor_after_the_other():
    schedule = Piecewise([0.1, 0.25], [1.0, 1e-3, 0.0])
    assert [schedule(step, 40) for step in (0, 3, 4, 9, 10, 39, 60)] == [1.0, 1.0, 1e-3, 1e-3, 0.0, 0.0, 0.0]
    assert Piecewise([], [0.5])(7, 10) == 0.5


def test_schedules_multiply():
    schedule = LinearWarmup(steps=2) * CosineDecay() * MultiStep([0.0], factor=3.0)
    assert schedule(1, 4) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)) / 2 * 3)


def test_unknown_length_is_rejected_with_a_remedy():
    for schedule in (LinearWarmup(), CosineDecay(), MultiStep([0.5]), Piecewise([], [1.0])):
        with pytest.raises(ConfigurationError, match="max_steps or max_epochs"):
            schedule(0, math.inf)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearWarmup(fraction=0.0), r"fraction=0\.0"),
        (lambda: LinearWarmup(fraction=1.5), r"fraction=1\.5"),
        (lambda: LinearWarmup(steps=0), "steps=0"),
        (lambda: LinearWarmup(fraction=0.5, steps=3), "one of the two"),
        (lambda: CosineDecay(final=-1), "final=-1"),
        (lambda: MultiStep([]), r"milestones=\[\]"),
        (lambda: MultiStep([2]), r"milestones=\[2\]"),
        (lambda: MultiStep([0.5], factor=math.nan), "factor=nan"),
        (lambda: Piecewise([0.5, 0.2], [1, 1, 1]), r"milestones=\[0\.5, 0\.2\]"),
        (lambda: Piecewise([0.5], [1.0]), "give 2 numbers"),
        (lambda: Piecewise([0.5], [1.0, -1.0]), r"factors=\[1\.0, -1\.0\]"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
