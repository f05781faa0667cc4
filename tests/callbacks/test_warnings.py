"""A training that goes wrong is told once, with numbers and a remedy; one that goes right is not warned of."""

import re
import warnings

import pytest
import torch
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.callbacks.penalty.outweighing import OutweighingWatch
from ortho_lightning.regularizers import LSH, Gram, Regularizer
from ortho_lightning.schedules import LinearWarmup
from tests.callbacks.helpers import PACKAGES, boring, images, make_trainer, vision_module


def outweighing(caught):
    return [str(w.message) for w in caught if "outweighs the task" in str(w.message)]


def ratios_of(*ratios, first=1.0):
    """What a watch says of steps whose task's loss is ``first``."""
    watch = OutweighingWatch(every=50)
    return [watch.check(torch.tensor(r * first), torch.tensor(first), 1.0, 1.0, lambda: 0.0) for r in ratios]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("regularizer", [LSH(), LSH(probe="exact"), Gram()])
def test_a_weight_of_a_million_is_warned_of_once_in_the_first_step(package, regularizer):
    module = vision_module(package)
    callback = OrthogonalityCallback(regularizer, weight=1e6)
    with pytest.warns(UserWarning, match="outweighs the task") as caught:
        make_trainer(callback, package, max_steps=1).fit(module, images(8))
    (message,) = outweighing(caught)
    assert "OrthogonalityCallback('ortho')" in message
    assert "suggest_weight" in message
    tried = float(re.search(r"a weight of (\S+),", message)[1])
    assert 0 < tried < 1e4


def test_the_weight_to_try_is_no_longer_warned_of_and_a_tenth_of_the_task():
    def fit(weight):
        module = vision_module()
        module.net[5].p = 0.0
        trainer = make_trainer(OrthogonalityCallback(Gram(), weight=weight, log_every_n_steps=1))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.fit(module, images())
        return outweighing(caught), trainer.callback_metrics

    (message,), _ = fit(1e5)
    weight = float(re.search(r"a weight of (\S+),", message)[1])
    none, metrics = fit(weight)
    assert none == []
    floor = metrics["ortho/penalty_floor"]
    above = weight * (metrics["ortho/penalty"] - floor)
    assert above / metrics["ortho/task_loss"] == pytest.approx(0.1, rel=0.5)


@pytest.mark.parametrize("options", [{}, {"max_steps": 40}, {"accumulate_grad_batches": 2}])
@pytest.mark.parametrize(
    "callback",
    [
        {"weight": 0.1},
        {"regularizer": Gram(), "weight": 0.01},
        {"regularizer": LSH(probe="exact"), "weight": 1.0},
        {"weight": 0.0},
        {"regularizer": None},
    ],
)
def test_usual_weights_are_not_warned_of(callback, options, recwarn):
    make_trainer(OrthogonalityCallback(**callback), **{"max_steps": 20, **options}).fit(vision_module(), images(160))
    assert outweighing(recwarn) == []


def test_tenfold_is_warned_of_when_it_lasts_for_eight_steps_and_in_the_eighth():
    said = ratios_of(*[12.0] * 8)
    assert said[:7] == [None] * 7
    assert "12 times" in said[7]
    assert "each of 8 steps" in said[7]


@pytest.mark.parametrize(
    "ratios",
    [
        [200.0, 50.0, 20.0, 5.0, 1.0, 0.5, 0.4, 0.3],  # large after initialization, soon small
        [9.0] * 200,
        [0.0] * 200,
        [float("nan")] * 200,
        [100.0] * 7 + [float("nan")] + [1.0] * 100,
    ],
)
def test_a_penalty_that_falls_or_stays_below_is_not_warned_of(ratios):
    assert not any(ratios_of(*ratios))


def test_a_weight_that_rises_late_is_seen_within_two_intervals():
    said = ratios_of(*[0.1] * 500, *[100.0] * 100)
    assert any(said[500:])
    assert not any(said[:500])


def test_a_task_that_was_learned_has_a_small_loss_beside_any_penalty():
    watch = OutweighingWatch(every=50)
    for step in range(300):
        assert watch.check(torch.tensor(1.0), torch.tensor(2.0 * 0.9**step), 1.0, 1.0, lambda: 0.0) is None


def test_what_orthogonal_filters_would_read_does_not_count_and_no_task_is_not_outweighed():
    watch = OutweighingWatch(every=50)
    assert not any(watch.check(torch.tensor(1e6), torch.tensor(1.0), 1.0, 1.0, lambda: 1e6) for _ in range(100))
    assert not any(ratios_of(*[1.0] * 100, first=0.0))


def test_a_warm_up_to_a_ruinous_weight_is_warned_of():
    with pytest.warns(UserWarning, match="outweighs the task"):
        make_trainer(
            OrthogonalityCallback(Gram(), weight=1e4, schedule=LinearWarmup(steps=5), log_every_n_steps=8),
            max_steps=40,
        ).fit(vision_module(), images(160))


def test_the_device_is_waited_for_at_few_steps():
    class Counted(torch.Tensor):
        waits = 0

        def __float__(self):
            Counted.waits += 1
            return super().__float__()

    watch = OutweighingWatch(every=50)
    for _ in range(1000):
        watch.check(
            torch.tensor(1.0).as_subclass(Counted), torch.tensor(1.0).as_subclass(Counted), 1.0, 1.0, lambda: 0.0
        )
    assert 5 <= Counted.waits <= 26


class Constant(Regularizer):
    def penalty(self, layer):
        return layer.filters.sum() * 0 + 1.0


def test_a_regularizer_without_a_floor_works(recwarn):
    make_trainer(OrthogonalityCallback(Constant(), weight=0.1), max_steps=2).fit(boring().BoringModel())
    assert outweighing(recwarn) == []


def test_a_linear_head_of_more_filters_than_dimensions_is_not_warned_of_for_its_floor(recwarn):
    class Wide(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 512)
            nn.init.orthogonal_(self.layer.weight)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean()

    make_trainer(OrthogonalityCallback(Gram(), weight=1.0), max_steps=20).fit(Wide())
    assert outweighing(recwarn) == []


def frozen(caught):
    return [str(w.message) for w in caught if "required no gradient" in str(w.message)]


class Tower(boring().BoringModel):
    """Seven layers, of which the first ones are frozen."""

    def __init__(self, count):
        super().__init__()
        self.layer = None
        self.net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(7)))
        self.net[:count].requires_grad_(False)

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("regularizer", [Gram(), LSH()])
@pytest.mark.parametrize(("count", "shown"), [(2, "'net.0', 'net.1'"), (6, "'net.4', ... (6 in all)")])
def test_layers_that_stay_frozen_are_named_once(regularizer, count, shown, recwarn):
    trainer = make_trainer(OrthogonalityCallback(regularizer, monitor=None), max_steps=-1, max_epochs=2)
    trainer.fit(Tower(count))
    (message,) = frozen(recwarn)
    assert f"{shown} required no gradient in the 50 training steps so far" in message
    assert not any("no forward" in str(w.message) or "depends on the result" in str(w.message) for w in recwarn)


def test_layers_that_train_and_layers_that_are_unfrozen_in_time_are_not_warned_of(recwarn):
    make_trainer(OrthogonalityCallback(Gram()), max_steps=-1, max_epochs=1).fit(Tower(0))
    module = Tower(2)
    module.on_train_batch_end = lambda *_: module.requires_grad_()
    make_trainer(OrthogonalityCallback(Gram()), max_steps=-1, max_epochs=3, limit_train_batches=5).fit(module)
    assert frozen(recwarn) == []
