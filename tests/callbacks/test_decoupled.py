"""Penalties that are applied after the optimizer's step, against loops written by hand."""

import copy
import csv
import importlib
import inspect

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn
from torch.nn.utils import parametrizations, prune

from ortho_lightning import GradientShare, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram, gram_normalized, srip
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module

WEIGHT = 0.05


def module_with(make_optimizer, package="pytorch_lightning", **options):
    module = vision_module(package, **options)
    module.net[5].p = 0.0
    module.net[2].bias.requires_grad_(False)  # a norm follows: its gradient is noise, which Adam would make large
    module.configure_optimizers = lambda: make_optimizer(module)
    return module


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=0.01)


def scheduled(module):
    optimizer = sgd(module)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def two_groups(module):
    first, *others = module.parameters()
    return torch.optim.SGD([{"params": [first], "lr": 0.3}, {"params": others}], lr=0.1)


def layers_of(module):
    return {"net.0": module.net[0], "net.2": module.net[2], "net.6": module.net[6]}


def gram(layer):
    """The penalty, written out for each group of filters."""
    groups = getattr(layer, "groups", 1)
    filters = layer.weight.reshape(groups, len(layer.weight) // groups, -1)
    return sum(((w @ w.T - torch.eye(len(w))) ** 2).sum() for w in filters)


def apply_by_hand(optimizer, layers, weight, penalty=gram):
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: torch.autograd.grad(penalty(layer), layer.weight)[0] for name, layer in layers.items()}
    with torch.no_grad():
        for name, layer in layers.items():
            layer.weight -= rates[id(layer.weight)] * weight * found[name]


def train_by_hand(module, batches, window=1, every=1):
    configured = module.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    module.train()
    for number, batch in enumerate(batches):
        (module.loss(batch) / window).backward()
        if (number + 1) % window:
            continue
        optimizer.step()
        step = number // window
        if step % every == 0:
            apply_by_hand(optimizer, layers_of(module), WEIGHT * every)
        optimizer.zero_grad()
        if isinstance(configured, dict):
            configured["lr_scheduler"]["scheduler"].step()
    return module


def assert_same_weights(found, expected, **tolerance):
    for (name, one), other in zip(found.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("make_optimizer", [sgd, adam, scheduled, two_groups])
@pytest.mark.parametrize(("window", "every"), [(1, 1), (2, 1), (1, 2)])
def test_it_is_the_update_written_by_hand(package, make_optimizer, window, every):
    module = module_with(make_optimizer, package)
    reference = copy.deepcopy(module)
    reference.configure_optimizers = lambda: make_optimizer(reference)
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, every_n_steps=every, apply="decoupled")
    trainer = make_trainer(callback, package, max_steps=4, accumulate_grad_batches=window)
    trainer.fit(module, images(32, 4))
    train_by_hand(reference, list(images(32, 4))[: 4 * window], window, every)
    assert_same_weights(module, reference)
    assert callback.penalty is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_weight_0_is_measured_and_changes_nothing(package):
    plain, measured = module_with(sgd, package), module_with(sgd, package)
    callback = OrthogonalityCallback(Gram(), weight=0.0, apply="decoupled")
    make_trainer([], package, max_steps=3).fit(plain, images(12, 4))
    make_trainer(callback, package, max_steps=3).fit(measured, images(12, 4))
    assert_same_weights(measured, plain, rtol=0, atol=0)
    assert callback.penalty.item() > 0


@pytest.mark.parametrize("package", PACKAGES)
def test_the_loss_is_the_tasks_and_the_scalars_say_what_was_applied(package, tmp_path):
    logger = importlib.import_module(f"{package}.loggers").CSVLogger(tmp_path)
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled", log_every_n_steps=1)
    trainer = make_trainer(callback, package, max_steps=2, logger=logger)
    trainer.fit(module_with(sgd, package), images(8, 4))
    with open(logger.experiment.metrics_file_path) as file:
        logged = {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}
    assert logged["ortho/penalty_loss"] == 0
    assert logged["ortho/total_loss"] == logged["ortho/task_loss"]
    assert logged["ortho/weight"] == pytest.approx(WEIGHT)
    of_layers = [logged[f"ortho/penalty/{name}"] for name in ("net.0", "net.2", "net.6")]
    assert logged["ortho/penalty"] == pytest.approx(sum(of_layers))


# ------------------------------------------------------------------------------------------------ several optimizers


def manual_module(skip=()):
    module = vision_module()
    module.automatic_optimization = False
    module.net[5].p = 0.0
    first, last = list(module.net[:3].parameters()), list(module.net[3:].parameters())
    module.configure_optimizers = lambda: [torch.optim.SGD(first, lr=0.1), torch.optim.Adam(last, lr=0.01)]

    def training_step(batch, batch_idx):
        for number, optimizer in enumerate(module.optimizers()):
            optimizer.zero_grad()
            module.manual_backward(module.loss(batch))
            if number not in skip:
                optimizer.step()

    module.training_step = training_step
    return module


def test_each_optimizer_moves_its_own_layers_after_its_own_step():
    module = manual_module()
    reference = copy.deepcopy(module)
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled")
    make_trainer(callback, max_steps=4).fit(module, images(8, 4))  # Lightning counts the steps of both optimizers
    first, last = list(reference.net[:3].parameters()), list(reference.net[3:].parameters())
    one, two = torch.optim.SGD(first, lr=0.1), torch.optim.Adam(last, lr=0.01)
    layers = layers_of(reference)
    for batch in images(8, 4):
        for optimizer, names in ((one, ("net.0", "net.2")), (two, ("net.6",))):
            optimizer.zero_grad()
            reference.loss(batch).backward()
            optimizer.step()
            own = {name: layers[name] for name in names}
            penalty = {name: gram(layer).item() for name, layer in own.items()}
            apply_by_hand(optimizer, own, WEIGHT)
    assert_same_weights(module, reference)
    assert set(penalty) == {"net.6"}
    assert callback.penalty.item() > penalty["net.6"]  # that of all layers, of both steps


def test_an_optimizer_that_does_not_step_applies_nothing_and_is_told():
    module = manual_module(skip=(1,))
    before = module.net[6].weight.detach().clone()
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled", log_every_n_steps=2)
    with pytest.warns(UserWarning, match=r"'net\.6' were in none of 2 optimizer steps"):
        make_trainer(callback, max_steps=2).fit(module, images(8, 4))
    assert torch.equal(module.net[6].weight, before)


@pytest.mark.parametrize("fused", [False, True])  # a fused optimizer is called, and skips the step by itself
def test_a_step_that_mixed_precision_skips_applies_nothing(fused):
    module = vision_module()
    module.automatic_optimization = False
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    module.configure_optimizers = lambda: optimizer
    states = []

    def training_step(batch, batch_idx):
        optimizer.zero_grad()
        module.manual_backward(scaler.scale(module.loss(batch)))
        if batch_idx == 1:
            module.net[0].weight.grad[0, 0, 0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        states.append(module.net[2].weight.detach().clone())

    module.training_step = training_step
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled")
    make_trainer(callback, max_steps=-1, max_epochs=1).fit(module, images(12, 4))
    first, second, third = states
    assert torch.equal(first, second)
    assert not torch.equal(second, third)


# ------------------------------------------------------------------------------------------------------------ layers


def test_frozen_layers_and_those_without_a_gradient_stay():
    module = module_with(sgd)
    module.net[2].weight.requires_grad_(False)
    before = module.net[2].weight.clone()
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled")
    make_trainer(callback, max_steps=2).fit(module, images(8, 4))
    assert torch.equal(module.net[2].weight, before)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.5)


def weight_norm(layer):
    torch.nn.utils.weight_norm(layer)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", [pruned, weight_norm, parametrizations.weight_norm])
def test_reparametrized_weights_are_moved_through_their_parameters(change):
    def parameters_of(layer):
        return [p for name, p in layer.named_parameters() if "bias" not in name]

    def weight_of(layer):
        if change is pruned:
            return layer.weight_orig * layer.weight_mask
        size = (1, 2, 3)
        g, v = parameters_of(layer)
        return g * v / v.square().sum(size, keepdim=True).sqrt()

    module = module_with(sgd)
    module.net[2].weight.data.mul_(3)
    change(module.net[2])
    reference = module_with(sgd)
    reference.net[2].weight.data.mul_(3)
    change(reference.net[2])
    callback = OrthogonalityCallback(Gram(), layers="net.2", weight=WEIGHT, apply="decoupled")
    make_trainer(callback, max_steps=3).fit(module, images(12, 4))
    optimizer = sgd(reference)
    reference.train()
    for batch in images(12, 4):
        optimizer.zero_grad()
        reference.loss(batch).backward()
        optimizer.step()
        weight = weight_of(reference.net[2]).reshape(2, 4, -1)
        penalty = sum(((w @ w.T - torch.eye(4)) ** 2).sum() for w in weight)
        found = torch.autograd.grad(penalty, parameters_of(reference.net[2]))
        with torch.no_grad():
            for parameter, gradient in zip(parameters_of(reference.net[2]), found, strict=True):
                parameter -= 0.1 * WEIGHT * gradient
    assert_same_weights(module, reference)


@pytest.mark.parametrize("regularizer", [srip(), gram_normalized(), LSH(probe="exact"), LSH(probe="gaussian")])
def test_any_penalty_on_filters_can_be_applied(regularizer):
    plain, moved = module_with(sgd), module_with(sgd)
    make_trainer([], max_steps=1).fit(plain, images())
    make_trainer(OrthogonalityCallback(regularizer, weight=WEIGHT, apply="decoupled")).fit(moved, images())
    for name, layer in layers_of(moved).items():
        difference = layer.weight - layers_of(plain)[name].weight
        assert difference.abs().max() > 0
        assert difference.isfinite().all()


# -------------------------------------------------------------------------------------------------------- life cycle


@pytest.mark.parametrize("regularizer", [Gram(), srip()])
@pytest.mark.parametrize("apply", ["loss", "decoupled"])
def test_resume_is_bit_identical(regularizer, apply, tmp_path):
    def trainer(**options):
        callback = OrthogonalityCallback(regularizer, weight=WEIGHT, apply=apply)
        return make_trainer(callback, enable_checkpointing=True, default_root_dir=tmp_path, **options)

    whole, half, rest = module_with(adam), module_with(adam), module_with(adam)
    # the argument came with Lightning 2.6
    plain = {"weights_only": True} if "weights_only" in inspect.signature(Trainer.fit).parameters else {}
    trainer(max_epochs=4, max_steps=-1).fit(whole, images(12, 4))
    first = trainer(max_epochs=2, max_steps=-1)
    first.fit(half, images(12, 4))
    first.save_checkpoint(tmp_path / "half.ckpt")
    trainer(max_epochs=4, max_steps=-1).fit(rest, images(12, 4), ckpt_path=tmp_path / "half.ckpt", **plain)
    assert_same_weights(rest, whole, rtol=0, atol=0)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_on_the_optimizers(fails):
    module = module_with(sgd)
    optimizer = sgd(module)
    module.configure_optimizers = lambda: optimizer

    def fail(*_):
        raise RuntimeError("on purpose")

    if fails:
        module.on_train_batch_end = fail
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled")
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"):
            make_trainer(callback).fit(module, images())
    else:
        make_trainer(callback).fit(module, images())
    before = module.net[0].weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert torch.equal(module.net[0].weight, before)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    module.zero_grad()
    optimizer.step()
    assert torch.equal(module.net[0].weight, before)


def test_steps_of_another_trainer_are_not_the_callbacks():
    module = module_with(sgd)
    callback = OrthogonalityCallback(Gram(), weight=WEIGHT, apply="decoupled")
    make_trainer(callback).fit(module, images())
    plain = module_with(sgd)
    plain.load_state_dict(module.state_dict())
    make_trainer([]).fit(module, images())
    make_trainer([]).fit(plain, images())
    assert_same_weights(module, plain, rtol=0, atol=0)


# ---------------------------------------------------------------------------------------------------------- rejected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"apply": "after"}, "apply='after'"),
        ({"regularizer": LSH()}, "no outputs to penalize"),
        ({"weight": GradientShare(0.1)}, "does not pass through the optimizer"),
        ({"log_gradient_ratio_every_n_steps": 5}, "does not pass through the optimizer"),
    ],
)
def test_what_cannot_be_applied_so_is_rejected(options, message):
    with pytest.raises(ConfigurationError, match=message):
        OrthogonalityCallback(**{"regularizer": Gram(), "apply": "decoupled", **options})


def test_lbfgs_is_rejected_by_name_before_the_first_batch():
    module = module_with(lambda module: torch.optim.LBFGS(module.parameters()))
    module.training_step = lambda *_: pytest.fail("a batch was trained")
    with pytest.raises(ConfigurationError, match=r"decoupled' with LBFGS.*apply='loss'"):
        make_trainer(OrthogonalityCallback(Gram(), apply="decoupled")).fit(module, images())


# --------------------------------------------------------------------------------------------------------- why it is


def test_under_adam_the_strength_of_a_penalty_in_the_loss_depends_on_the_scale_of_the_tasks_gradient():
    """Two equal layers, one with a thousandth of the other's gradient: how far does the penalty move each?"""

    class Two(importlib.import_module("pytorch_lightning").LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.large = nn.Linear(8, 6)
            self.small = copy.deepcopy(self.large)

        def training_step(self, batch, batch_idx):
            generator = torch.Generator().manual_seed(batch_idx)
            wanted = torch.randn(len(batch), 6, generator=generator)
            return (self.large(batch) - wanted).square().sum() + 1e-3 * (self.small(batch) - wanted).square().sum()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    def movement(apply):
        found = []
        for weight in (0.0, 1e-3):
            module = Two()
            x = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
            callback = OrthogonalityCallback(Gram(), weight=weight, apply=apply)
            make_trainer(callback, max_steps=15).fit(module, torch.utils.data.DataLoader(x, batch_size=4))
            found.append([module.large.weight.detach().clone(), module.small.weight.detach().clone()])
        return [(after - before).norm().item() for before, after in zip(*found, strict=True)]

    large, small = movement("loss")
    assert small / large > 100
    large, small = movement("decoupled")
    assert small / large == pytest.approx(1, abs=0.1)
    assert OF.gram_penalty(Two().large.weight.detach()).item() > 0
