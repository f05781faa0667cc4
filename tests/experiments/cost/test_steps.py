"""Baselines compute their formulas, and peaks count the memory that a step holds."""

import time

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cost.arms import ARMS, Arm, Pair, named_arm
from ortho_lightning.experiments.cost.baselines import BASELINES
from ortho_lightning.experiments.cost.cases import Case
from ortho_lightning.experiments.cost.clock import Seconds
from ortho_lightning.experiments.cost.limit import bare_products
from ortho_lightning.experiments.cost.networks import NETWORKS, compared, unreached
from ortho_lightning.experiments.cost.steps import costs_of, measure
from ortho_lightning.layers.filters import layer_filters
from ortho_lightning.layers.selection import select_layers, select_parts
from ortho_lightning.regularizers import LSH, Gram

CPU = {"accelerator": "cpu"}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=False))


def test_the_recipe_is_the_penalty_of_all_rows():
    net, x = network(), torch.randn(4, 3, 8, 8)
    hidden = net[0](x)
    penalty = BASELINES["recipe"](select_layers(net))
    net(x)
    last = nn.functional.conv2d(net[2](net[1](hidden)), net[3].weight)
    rows = [z.movedim(1, -1).flatten(0, -2) for z in (hidden, last)]
    k = torch.tensor([8.0, 6.0])
    # the article's means are over all k^2 entries, the diagonal's zeros included
    share = (k - 1) / k
    expected = sum(
        OF.lsh_penalty(z, lambda1=100 * s.item() ** 2, lambda2=s.item()) for z, s in zip(rows, share, strict=True)
    )
    torch.testing.assert_close(penalty(), expected, rtol=1e-4, atol=0)


def test_the_baseline_on_the_weights_is_zero_for_orthogonal_filters_and_not_for_others():
    net = nn.Sequential(nn.Conv2d(9, 4, 1, bias=False), nn.Linear(9, 4, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4, 9)[:, :, None, None])
        net[1].weight.copy_(torch.eye(4, 9))
    penalty = BASELINES["gram_by_hand"](select_layers(net))
    assert penalty().item() == 0
    with torch.no_grad():
        net[0].weight[0] = net[0].weight[1]
    assert penalty().item() > 1


def test_gram_by_hand_is_the_gram_penalty():
    net = network()
    layers = select_layers(net)
    expected = sum(OF.gram_penalty(layer_filters(layer)) for layer in layers.values())
    torch.testing.assert_close(BASELINES["gram_by_hand"](layers)(), expected)


def test_the_hard_constraint_makes_orthogonal_filters():
    net = network()
    layers = select_layers(net)
    BASELINES["hard"](layers)
    for layer in layers.values():
        assert OF.gram_penalty(layer_filters(layer)).item() < 1e-8
    net(torch.randn(2, 3, 8, 8)).sum().backward()


@pytest.mark.parametrize("name", [*ARMS[:-1], "geotorch"])
def test_every_arm_trains(name):
    if name == "geotorch":
        pytest.importorskip("geotorch")
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    net = nn.Sequential(*network(), nn.Flatten(), nn.Linear(6 * 16, 10))
    arm = named_arm(name, net, (torch.randn(4, 3, 8, 8), torch.arange(4)), CPU)
    before = [parameter.clone() for parameter in net.parameters()]
    if arm.spacing is None:
        pairs = [Pair(arm.step_time(), arm.step_time())]
    else:
        pairs = arm.neighbours(2)
        assert len(pairs) == 2
    assert all(seconds.wall > 0 and seconds.cpu > 0 for pair in pairs for seconds in (pair.own, pair.plain))
    limit = arm.limit()
    assert limit is None or limit > 0
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True))  # it trains a copy


def test_peak_counts_what_the_step_holds():
    class Hoard(nn.Module):
        def forward(self, x):
            return (x * torch.ones(1_000_000, device=x.device).exp()[:1]).relu()

    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    batch = (torch.randn(4, 3, 8, 8), torch.arange(4))
    plain = named_arm("none", net, batch, CPU).peak_bytes()
    more = named_arm("none", nn.Sequential(Hoard(), *net), batch, CPU).peak_bytes()
    assert 3 * net[1].weight.nbytes < plain < 1e6
    assert 7.9e6 < more - plain < 9e6  # the ones and their exponentials at once


def test_all_rows_hold_more_memory_than_a_sample():
    net = nn.Sequential(*network(), nn.Flatten(), nn.Linear(6 * 784, 10))
    batch = (torch.randn(32, 3, 32, 32), torch.arange(32) % 10)
    assert LSH().max_samples < 32 * 900
    sampled, everything = (named_arm(name, net, batch, CPU).peak_bytes() for name in ("lsh", "lsh_all_rows"))
    assert everything > 1.1 * sampled


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_networks_are_compared_on_layers_that_run(name):
    net, (x, _) = Case(name, 2, 32, 1).make()
    layers = select_layers(net, compared(net), unreached(net))
    ran = set()
    for layer_name, layer in layers.items():
        layer.register_forward_hook(lambda *_, layer_name=layer_name: ran.add(layer_name))
    net(x)
    assert ran == set(layers)
    if name == "resnet18":
        assert len(layers) == 20


class Slow(LightningModule):
    """Waits for some milliseconds in every third step, without working, and for some more in every one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        time.sleep(0.03 if self.global_step % 3 == 0 else 0.01)
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_penalized_step_is_set_beside_its_neighbours():
    batch = (torch.zeros(1), torch.zeros(1))
    arm = Arm("slow", Slow(), batch, CPU, every=3, spacing=3)
    pairs = arm.neighbours(4)
    assert len(pairs) == 4
    for pair in pairs:
        assert pair.own.wall >= 0.03 > pair.plain.wall >= 0.01
        assert pair.own.cpu < 0.03  # it slept
    costs = costs_of([Arm("none", Slow(), batch, CPU), arm], rounds=4)
    assert costs["slow"].own_ms > 10  # of the steps that have it
    in_one_step = costs["slow"].ratio - 1
    assert 0 < in_one_step < costs["slow"].own_ms / 10 / 3 * 1.5  # a third of it, as every third step has it


def test_errors_of_equal_steps_are_small_and_of_different_ones_are_not():
    def pairs(*own):
        return [Pair(Seconds(each, None), Seconds(1.0, None)) for each in own]

    class Fixed(Arm):
        def __init__(self, name, own):
            super().__init__(name, Slow(), (torch.zeros(1), torch.zeros(1)), CPU)
            self.own = own

        def neighbours(self, count):
            return pairs(*self.own)

        def peak_bytes(self):
            return 10

    costs = costs_of([Fixed("none", [1.0, 1.0, 1.0]), Fixed("some", [1.1, 1.2, 1.4, 1.2])], rounds=4)
    assert (costs["none"].ratio, costs["none"].ratio_error, costs["none"].own_ms) == (1, 0, 0)
    assert costs["some"].ratio == pytest.approx(1.2)
    assert costs["some"].own_ms == pytest.approx(200)
    # median absolute deviation 0.05 of four values
    assert costs["some"].ratio_error == pytest.approx(1.2533 * 1.4826 * 0.05 / 2, rel=1e-3)
    assert costs["some"].cpu_ratio is None


@pytest.mark.parametrize("compiled", [False, True])
def test_costs_of_a_case(compiled):
    costs = measure(Case("small_cnn", 4, 32, 1), ["none", "gram", "muon"], rounds=2, options=CPU, compiled=compiled)
    assert [cost.arm for cost in costs] == ["none", "gram", "muon"]
    assert costs[0].peak_ratio == 1
    assert costs[1].peak_ratio > 1
    assert [cost.limit_ms is None for cost in costs] == [True, False, True]


def test_the_bare_limit_counts_the_products_of_each_layer(monkeypatch):
    net = network()
    layers = select_parts(net)
    made = []
    real = torch.randn
    monkeypatch.setattr(torch, "randn", lambda shape, **options: made.append(shape) or real(shape, **options))
    x = real(4, 3, 8, 8)
    for regularizer, expected in (
        (Gram(), [(1, 27, 8), (1, 72, 6)]),
        (LSH(max_samples=100), [(1, 100, 8), (1, 64, 6)]),
        (LSH(probe="exact", max_filters=3), [(1, 27, 3), (1, 72, 3)]),
        (Gram(norm="spectral"), []),
    ):
        made.clear()
        found = bare_products(net, layers, x, regularizer)
        assert made == expected
        assert (found is None) == (not expected)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case("alexnet", 1, 32, 1), "networks='alexnet'"),
        (Case("resnet18", 1, 32, 2), "widths=2"),
        (Case("vit", 1, 30, 1), "resolutions=30"),
    ],
)
def test_cases_that_cannot_be_made_are_rejected(case, message):
    with pytest.raises(ConfigurationError, match=message):
        case.check()


def test_unknown_arms_are_named():
    with pytest.raises(ConfigurationError, match="arms='lhs'"):
        named_arm("lhs", network(), (torch.randn(1, 3, 8, 8), torch.zeros(1, dtype=torch.long)), CPU)
