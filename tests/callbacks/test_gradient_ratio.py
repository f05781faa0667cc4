"""The gradient ratio equals that of two backward passes by hand, and training does not notice it."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ortho_lightning import OrthogonalityCallback, suggest_weight
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram
from ortho_lightning.schedules import LinearWarmup
from tests.callbacks.helpers import ALL_ROWS, PACKAGES, boring, images, lsh_penalty, make_trainer, twin, vision_module


def rows(count=16, batch_size=16):
    return torch.utils.data.DataLoader(boring().RandomDataset(32, count), batch_size=batch_size)


def ratio(penalty, loss, weights):
    """By hand, over all the weights together."""
    above, below = (torch.autograd.grad(value, weights, retain_graph=True) for value in (penalty, loss))
    return (sum(g.square().sum() for g in above) / sum(g.square().sum() for g in below)).sqrt().item()


class TwoLayers(boring().BoringModel):
    def __init__(self):
        super().__init__()
        self.below = nn.Linear(32, 32)

    def training_step(self, batch, batch_idx):
        return self.layer(self.below(batch).tanh()).square().mean()


class TwoLosses(TwoLayers):
    """Two backward passes in a step, each through one layer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.below(batch).square().mean())
        self.manual_backward(self.layer(batch).square().mean())
        optimizer.step()


def by_hand(model, x, weight=1.0, scale=1.0):
    below = model.below(x)
    output = model.layer(below.tanh())
    penalty = weight * (lsh_penalty(below - model.below.bias) + lsh_penalty(output - model.layer.bias))
    task = output.square().mean()
    weights = [model.below.weight, model.layer.weight]
    each = {
        "below": ratio(penalty, task, weights[:1]),
        "layer": ratio(penalty, task, weights[1:]),
        "": ratio(penalty, task, weights),
    }
    return {f"ortho/gradient_ratio/{name}".rstrip("/"): value for name, value in each.items()}


def logged(callback, model, data, **options):
    trainer = make_trainer(callback, **options)
    trainer.fit(model, data)
    return {name: value.item() for name, value in trainer.callback_metrics.items() if "gradient_ratio" in name}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ratio_is_that_of_the_norms_of_both_gradients(accumulate):
    model = TwoLayers()
    reference = twin(model)
    # a lazy interval multiplies the penalty in its step, not what it weighs on average
    callback = OrthogonalityCallback(ALL_ROWS, weight=0.3, log_gradient_ratio_every_n_steps=1, every_n_steps=4)
    data = rows(32, 16)
    found = logged(callback, model, data, accumulate_grad_batches=accumulate)
    assert found == pytest.approx(by_hand(reference, next(iter(data)), weight=0.3), rel=1e-4)


@pytest.mark.parametrize("scale", [1.0, 2.0**12])
def test_ratio_under_loss_scaling_is_that_without(scale):
    from pytorch_lightning.plugins import MixedPrecision

    model = TwoLayers()
    reference = twin(model)
    callback = OrthogonalityCallback(ALL_ROWS, weight=0.3, log_gradient_ratio_every_n_steps=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    data = rows()
    found = logged(callback, model, data, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    assert found == pytest.approx(by_hand(reference, next(iter(data)), weight=0.3), rel=0.02)


def train(callback, package="pytorch_lightning", prepare=lambda module: None, **options):
    module = vision_module(package)
    prepare(module)
    torch.manual_seed(11)
    make_trainer(callback, package, max_steps=4, **options).fit(module, images(16))
    return {**module.state_dict(), "random state": torch.get_rng_state()}


def checkpointed(module):
    """With dropout and batch norm, whose running averages a recomputation moves."""
    net = module.net
    module.loss = lambda batch: (
        net[6](checkpoint(net[:6], batch[0].requires_grad_(), use_reentrant=False)).square().mean()
    )


def spectral(module):
    module.net[6] = nn.utils.parametrizations.spectral_norm(module.net[6])


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("prepare", [lambda module: None, checkpointed, spectral])
@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}])
def test_training_is_bit_identical_with_the_ratio(package, prepare, options):
    def make(every):
        return OrthogonalityCallback(LSH(max_samples=32), weight=0.1, log_gradient_ratio_every_n_steps=every)

    without, found = (train(make(every), package, prepare, **options) for every in (None, 1))
    for name, value in without.items():
        assert torch.equal(value, found[name]), name


def test_ratio_is_logged_at_its_interval_and_not_while_the_weight_is_zero(tmp_path):
    from pytorch_lightning.loggers import CSVLogger

    callback = OrthogonalityCallback(
        weight=0.1, schedule=LinearWarmup(steps=3), log_every_n_steps=None, log_gradient_ratio_every_n_steps=3
    )
    logger = CSVLogger(tmp_path, name="", version="")
    make_trainer(callback, max_steps=8, logger=logger).fit(vision_module(), images(32))
    table = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    at = table[0].index("step")
    # step 0 has weight 0, so the first interval is measured at its second step
    assert [int(line[at]) for line in table[1:]] == [1, 3, 6]


def test_manual_optimization_measures_each_backward():
    model = TwoLosses()
    reference = twin(model)
    data = rows()
    found = logged(OrthogonalityCallback(ALL_ROWS, weight=1.0, log_gradient_ratio_every_n_steps=1), model, data)
    x = next(iter(data))
    for name in ("below", "layer"):
        layer = getattr(reference, name)
        output = layer(x)
        expected = ratio(lsh_penalty(output - layer.bias), output.square().mean(), [layer.weight])
        assert found[f"ortho/gradient_ratio/{name}"] == pytest.approx(expected, rel=1e-4)


def test_a_layer_that_the_task_does_not_reach_has_no_ratio():
    class Beside(TwoLayers):
        def training_step(self, batch, batch_idx):
            self.below(batch)
            return self.layer(batch).square().mean()

    found = logged(OrthogonalityCallback(weight=0.1, log_gradient_ratio_every_n_steps=1), Beside(), rows())
    assert set(found) == {"ortho/gradient_ratio", "ortho/gradient_ratio/layer"}


def test_a_reentrant_checkpoint_above_a_layer_is_refused_by_name():
    def reentrant(module):
        net = module.net
        net[1].inplace = False
        module.loss = lambda batch: net[6](checkpoint(net[1:6], net[0](batch[0]), use_reentrant=True)).square().mean()

    train(OrthogonalityCallback(layers="net.0"), prepare=reentrant)
    callback = OrthogonalityCallback(layers="net.0", log_gradient_ratio_every_n_steps=1)
    with pytest.raises(ConfigurationError, match=r"log_gradient_ratio_every_n_steps.*use_reentrant=False"):
        train(callback, prepare=reentrant)


def test_ratio_is_refused_where_weights_are_sharded():
    from pytorch_lightning.strategies import ModelParallelStrategy

    from ortho_lightning.callbacks.penalty.compatibility import check_strategy

    class Sharding:
        strategy = object.__new__(ModelParallelStrategy)

    check_strategy(Sharding, gradient_ratio=False)
    with pytest.raises(ConfigurationError, match="under strategy ModelParallelStrategy"):
        check_strategy(Sharding, gradient_ratio=True)


# --------------------------------------------------------------------------------------------------------- suggestion


@pytest.mark.parametrize("package", PACKAGES)
def test_the_suggested_weight_has_the_target_ratio(package):
    module = vision_module(package)
    module.net[5].p = 0.0
    data = images(4)
    weight = suggest_weight(module, data, 0.2, batches=1, steps=0, accelerator="cpu")
    callback = OrthogonalityCallback(weight=weight, log_gradient_ratio_every_n_steps=1)
    trainer = make_trainer(callback, package)
    trainer.fit(module, data)
    assert trainer.callback_metrics["ortho/gradient_ratio"].item() == pytest.approx(0.2, rel=1e-4)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("count", [2, 12])  # fewer batches than steps, which are gone through again; and more
def test_the_suggestion_is_of_the_weights_after_the_steps(package, count):
    """The same as training by hand for three steps and measuring in the fourth."""
    module = vision_module(package)
    module.net[5].p = 0.0
    data = images(4 * count)
    weight = suggest_weight(module, data, 0.2, regularizer=Gram(), batches=1, steps=3, accelerator="cpu")
    reference = twin(module)
    optimizer = reference.configure_optimizers()
    batches = [batch for _ in range(3) for batch in data]
    for batch in batches[:3]:
        optimizer.zero_grad()
        reference.loss(batch).backward()
        optimizer.step()
    weights = [reference.net[at].weight for at in (0, 2, 6)]
    kernels = [weights[0].reshape(1, 6, 27), weights[1].reshape(2, 4, 27), weights[2].reshape(1, 5, 288)]
    penalty = sum(OF.gram_penalty(kernel) for kernel in kernels)
    assert weight == pytest.approx(0.2 / ratio(penalty, reference.loss(batches[3]), weights), rel=1e-3)


@pytest.mark.parametrize("count", [1, 2])
def test_suggesting_goes_through_short_data_as_often_as_it_must(count):
    data = rows(16 * count, 16)
    assert 0 < suggest_weight(TwoLayers(), data, regularizer=Gram(), batches=2, steps=150, accelerator="cpu") < math.inf


def test_suggesting_leaves_module_data_and_random_state_untouched():
    module = vision_module()
    make_trainer().fit(module, images())  # one with a Trainer of its own
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    trainer, before = module.trainer, copy.deepcopy(module.state_dict())
    attributes = dict(module.__dict__)
    generator = torch.Generator().manual_seed(3)
    data = torch.utils.data.DataLoader(images(12).dataset, batch_size=4, shuffle=True, generator=generator)
    state, drawn = torch.get_rng_state(), generator.get_state()
    once = suggest_weight(module, data, batches=2, steps=3, accelerator="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generator.get_state(), drawn)
    assert module.trainer is trainer
    assert module.__dict__.keys() == attributes.keys()
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    assert all(torch.equal(each.grad, torch.full_like(each, 3.0)) for each in module.parameters())
    assert suggest_weight(module, data, batches=2, steps=3, accelerator="cpu") == once


def test_suggesting_under_manual_optimization_and_for_another_regularizer():
    model = boring().ManualOptimBoringModel()
    data = rows()
    output = model.layer(next(iter(data)))
    penalty = OF.gram_penalty(model.layer.weight)
    expected = 0.2 / ratio(penalty, model.loss(output), [model.layer.weight])
    found = suggest_weight(model, data, 0.2, regularizer=Gram(), batches=1, steps=0, accelerator="cpu")
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_ratio": 0}, "target_ratio=0"),
        ({"target_ratio": float("nan")}, "target_ratio=nan"),
        ({"batches": 0}, "batches=0"),
        ({"steps": -1}, "steps=-1"),
        ({"data": iter([torch.ones(2, 32)])}, "an iterator would be used up"),
        ({"data": 3}, "data=3"),
        ({"data": []}, "data gave too few batches: 200 steps and then a measurement need 201"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    data = arguments.pop("data", rows())
    with pytest.raises(ConfigurationError, match=message):
        suggest_weight(TwoLayers(), data, accelerator="cpu", **arguments)


def test_a_lazy_layer_that_never_runs_has_no_part_in_the_ratio():
    module = vision_module()
    module.unused = torch.nn.Sequential(torch.nn.LazyLinear(4), torch.nn.LazyBatchNorm1d())
    callback = OrthogonalityCallback(LSH(), weight=0.1, log_gradient_ratio_every_n_steps=1)
    trainer = make_trainer(callback, max_steps=1)
    trainer.fit(module, images())
    assert trainer.callback_metrics["ortho/gradient_ratio"] > 0
    assert "ortho/gradient_ratio/unused.0" not in trainer.callback_metrics


def test_suggesting_takes_no_callbacks():
    with pytest.raises(ConfigurationError, match="leave callbacks out"):
        suggest_weight(vision_module(), images(), callbacks=[])
