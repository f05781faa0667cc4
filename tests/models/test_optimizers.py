"""Muon on kernels beside another optimizer: the numbers of the two on their own, and one optimizer to Lightning."""

import copy
from functools import partial

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from ortho_lightning.errors import ConfigurationError, LayerSelectionError
from ortho_lightning.models import Classifier, KernelOptimizer, Muon, SmallCNN
from tests.callbacks.helpers import make_trainer

if not hasattr(torch.optim, "Muon"):
    pytest.skip("torch.optim.Muon came with torch 2.9", allow_module_level=True)

MUON = Muon(exclude=["net.blocks.0.0", "net.head"], lr=0.02)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, bias=False),
                         nn.Flatten(), nn.Linear(8 * 16, 10), nn.Linear(10, 4))  # fmt: skip


def loss_of(net, number=0):
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(number))
    return net(x).square().mean()


def composite(net, lr=0.1, **options):
    muon = Muon(exclude=["0", "6"], lr=0.02, **options)
    kernels = muon.kernels(net)
    others = [p for p in net.parameters() if all(p is not kernel for kernel in kernels)]
    return muon.beside(torch.optim.SGD(others, lr=lr, momentum=0.9, weight_decay=1e-3), kernels)


def train(net, optimizer, steps=4, first=0, closure=False):
    for number in range(first, first + steps):

        def evaluate(number=number):
            optimizer.zero_grad()
            loss = loss_of(net, number)
            loss.backward()
            return loss

        if closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()


def states_equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("closure", [False, True])
def test_each_parameter_moves_as_with_its_own_optimizer(layout, closure):
    net = network().to(memory_format=layout)
    train(net, composite(net), closure=closure)
    # by hand: torch's Muon on parameters that are matrices, whose products the network uses as kernels
    plain = network()
    kernels = [plain[3].weight, plain[5].weight]
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    others = [p for p in plain.parameters() if all(p is not kernel for kernel in kernels)]
    muon, sgd = torch.optim.Muon(matrices, lr=0.02), torch.optim.SGD(others, lr=0.1, momentum=0.9, weight_decay=1e-3)
    for number in range(4):
        plain.zero_grad()
        loss_of(plain, number).backward()
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        muon.step(), sgd.step()
        with torch.no_grad():
            for matrix, kernel in zip(matrices, kernels, strict=True):
                kernel.copy_(matrix.view_as(kernel))
    # Muon iterates in bfloat16, and the order of columns changes sums
    close = partial(torch.testing.assert_close, rtol=2e-2, atol=2e-3) if layout is torch.channels_last else None
    for (name, value), expected in zip(net.state_dict().items(), plain.state_dict().values(), strict=True):
        (close or torch.testing.assert_close)(value, expected, msg=name)


def test_updates_of_kernels_have_singular_values_near_the_learning_rate():
    net = network()
    before = net[3].weight.detach().clone()
    train(net, composite(net, weight_decay=0.0), steps=1)
    update = torch.linalg.svdvals((before - net[3].weight.detach()).flatten(1))
    assert update.min() > 0.6 * 0.02  # what five Newton-Schulz steps reach
    assert update.max() < 1.3 * 0.02


def test_the_module_sees_its_own_parameters_each_once():
    net = network()
    optimizer = composite(net)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(net[3].weight), id(net[5].weight)}
    assert isinstance(optimizer, torch.optim.Optimizer)
    train(net, optimizer, steps=1)
    assert set(map(id, optimizer.state)) <= set(held)
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_hooks_run_once_a_step():
    net = network()
    optimizer, seen = composite(net), []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda one, *_: seen.append(len(one.param_groups)))
    train(net, optimizer, steps=2)
    assert seen == ["before", 2, "before", 2]


def test_a_schedule_multiplies_both_learning_rates():
    net = network()
    optimizer = composite(net)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train(net, optimizer, steps=1)
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.05]
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters() if name != "0.bias")
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = copy.deepcopy(net)
    train(net, optimizer, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_state_goes_on_to_the_same_bits(layout, tmp_path):
    net = network().to(memory_format=layout)
    optimizer = composite(net)
    train(net, optimizer, steps=3)
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "saved.pt")
    saved = torch.load(tmp_path / "saved.pt")
    other = network().to(memory_format=layout)
    other.load_state_dict(saved["net"])
    resumed = composite(other)
    resumed.load_state_dict(saved["optimizer"])
    for one, own in ((net, optimizer), (other, resumed)):
        train(one, own, steps=3, first=3)
    assert states_equal(net, other)


def test_copies_train_alike():
    net = network()
    optimizer = composite(net)
    train(net, optimizer, steps=2)
    other, copied = copy.deepcopy((net, optimizer))
    for one, own in ((net, optimizer), (other, copied)):
        train(one, own, steps=2, first=2)
    assert states_equal(net, other)


def test_parameters_without_a_gradient_and_later_groups():
    net = network()
    optimizer = composite(net)
    optimizer.add_param_group({"params": [extra := nn.Parameter(torch.ones(3))]})
    assert optimizer.param_groups[-1]["momentum"] == 0.9
    loss_of(net).backward()
    net[3].weight.grad = None
    before = net[3].weight.detach().clone()
    extra.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(net[3].weight, before)
    assert (extra < 1).all()


def test_frozen_grouped_and_parametrized_kernels_are_left_to_the_other_optimizer():
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 6, 3, groups=2), nn.Linear(4, 3), nn.Linear(3, 5))
    net[2].weight.requires_grad_(False)
    nn.utils.parametrizations.weight_norm(net[3])
    assert [id(p) for p in Muon().kernels(net)] == [id(net[0].weight)]


def test_a_shared_kernel_is_trained_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    net[1].weight = net[0].weight
    assert [id(p) for p in Muon(exclude="2").kernels(net)] == [id(net[0].weight)]


class Task(Classifier):
    """Small images of one batch."""

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(2)
        x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.arange(16) % 10
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)


def task(**options):
    torch.manual_seed(3)
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
    return Task(SmallCNN(width=4), 10, sgd, kernel_optimizer=MUON, channels_last=True, **options)


def fit(module, ckpt_path=None, epochs=2, **options):
    trainer = make_trainer(**{"max_steps": -1, "max_epochs": epochs, **options})
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer


def test_a_classifier_trains_its_hidden_kernels_by_muon_under_one_schedule():
    whole = task()
    (optimizer,) = fit(whole).optimizers
    assert isinstance(optimizer, KernelOptimizer)
    kernels, decayed, others = optimizer.param_groups
    assert [p.shape for p in kernels["params"]] == [block[0].weight.shape for block in whole.net.blocks[1:]]
    assert {id(p) for p in decayed["params"]} == {id(whole.net.blocks[0][0].weight), id(whole.net.head.weight)}
    assert (kernels["weight_decay"], decayed["weight_decay"], others["weight_decay"]) == (0.1, 5e-4, 0.0)
    assert kernels["initial_lr"] == 0.02
    assert kernels["lr"] / 0.02 == pytest.approx(decayed["lr"] / 0.1)


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path):
    fit(whole := task(schedule="constant"))
    fit(half := task(schedule="constant"), epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    assert not states_equal(whole, half)
    fit(resumed := task(schedule="constant"), ckpt_path=tmp_path / "half.ckpt")
    assert states_equal(whole, resumed)


def test_mixed_precision_skips_both_in_a_step_that_overflowed():
    module, plugin = task(schedule="constant"), MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    before = copy.deepcopy(module.net)

    module.on_after_backward = lambda: module.net.head.weight.grad.fill_(float("inf"))
    fit(module, epochs=1, plugins=[plugin])
    assert all(torch.equal(a, b) for a, b in zip(module.net.parameters(), before.parameters(), strict=True))
    module.on_after_backward = lambda: None
    fit(module, epochs=1, plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))])
    assert not torch.equal(module.net.blocks[3][0].weight, before.blocks[3][0].weight)


def test_mistakes_are_named(monkeypatch):
    net = network()
    with pytest.raises(LayerSelectionError, match="exclude='first'"):
        Muon(exclude="first").kernels(net)
    with pytest.raises(ConfigurationError, match="without kernels"):
        Muon().beside(torch.optim.SGD(net.parameters(), lr=0.1), [])
    with pytest.raises(ConfigurationError, match="LBFGS"):
        Muon().beside(torch.optim.LBFGS([net[0].weight]), [net[3].weight])
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigurationError, match=r"torch 2\.9"):
        Muon()
