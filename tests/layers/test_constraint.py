"""Filters of constrained layers are orthogonal, begin near the model's own, and stay so whatever the optimizer does."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ortho_lightning.errors import ConfigurationError, UnsupportedLayerError
from ortho_lightning.layers.constraint import (
    Constraint,
    check_unshared,
    constrain,
    constrained_parameters,
    constraint_of,
    nearest_orthogonal,
    release,
)
from ortho_lightning.layers.filters import layer_filters

LAYERS = {
    "wide": lambda: nn.Linear(6, 4),
    "tall": lambda: nn.Linear(4, 6),
    "square": lambda: nn.Linear(5, 5),
    "convolution": lambda: nn.Conv2d(3, 8, 3, bias=False),
    "more filters than dimensions": lambda: nn.Conv2d(3, 40, 3),
    "grouped": lambda: nn.Conv1d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "transposed and grouped": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
}
CONSTRAINTS = {
    "orthogonal": Constraint(),
    "cayley": Constraint(orthogonal_map="cayley"),
    "householder": Constraint(orthogonal_map="householder", use_trivialization=False),
    "geotorch": Constraint("geotorch"),
    "geotorch, cayley": Constraint("geotorch", orthogonal_map="cayley"),
    "geotorch, almost": Constraint("geotorch", radius=0.3),
}


def singular_values(layer):
    return torch.linalg.svdvals(layer_filters(layer).detach())


def moved(layer, steps=50, **options):
    """Train the layer towards a random weight."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, **options)
    target = torch.randn(layer.weight.shape)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer.weight - target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_filters_begin_as_the_nearest_orthogonal_ones_and_singular_values_stay(kind, name):
    if "geotorch" in name:
        pytest.importorskip("geotorch")
    layer, constraint = LAYERS[kind](), CONSTRAINTS[name]
    parameter, shape = layer.weight, layer.weight.shape
    u, _, vh = torch.linalg.svd(layer_filters(layer).detach(), full_matrices=False)
    state = torch.random.get_rng_state()
    constrain("layer", layer, constraint)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert layer.parametrizations.weight.original is parameter  # an optimizer that has it keeps it
    assert layer.weight.shape == shape
    torch.testing.assert_close(layer_filters(layer), u @ vh, rtol=0, atol=5e-6)
    losses = moved(layer)
    assert losses[-1] < 0.95 * losses[0]
    found = singular_values(layer)
    radius = constraint.radius + 1e-5
    assert 1 - radius <= found.min()
    assert found.max() <= 1 + radius
    if constraint.radius:
        assert found.max() - found.min() > 0.01 or found.max() > 1.01


def test_filters_of_a_wide_layer_are_at_right_angles_and_of_length_one():
    layer = nn.Conv2d(4, 6, 3, groups=2)
    constrain("layer", layer, Constraint())
    moved(layer)
    gram = layer_filters(layer) @ layer_filters(layer).mT
    torch.testing.assert_close(gram, torch.eye(3).expand(2, 3, 3), rtol=0, atol=2e-6)


def test_weight_decay_does_not_switch_the_filters_off():
    layer, bare = nn.Linear(6, 4), parametrizations.orthogonal(nn.Linear(6, 4))
    constrain("layer", layer, Constraint())
    for one in (layer, bare):
        moved(one, weight_decay=1e-4)
    torch.testing.assert_close(singular_values(layer), torch.ones(1, 4), rtol=0, atol=1e-5)
    if not bare.weight.any():  # what torch's own does as of 2.14; the reason for the buffer of signs
        assert (bare.parametrizations.weight.original.diagonal().abs() < 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonality_is_that_of_the_weights_precision_also_under_autocast(dtype):
    layer = nn.Linear(64, 32).to(dtype)
    constrain("layer", layer, Constraint())
    moved(layer, steps=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = layer.weight
    assert weight.dtype == dtype
    error = (weight @ weight.T - torch.eye(32, dtype=dtype)).abs().max()
    assert error < 100 * torch.finfo(dtype).eps


def test_a_zero_kernel_becomes_orthogonal_and_assigned_weights_are_projected():
    layer = nn.Linear(6, 4)
    nn.init.zeros_(layer.weight)
    constrain("layer", layer, Constraint())
    torch.testing.assert_close(singular_values(layer), torch.ones(1, 4))
    wanted = torch.randn(4, 6)
    layer.weight = wanted
    torch.testing.assert_close(layer.weight, nearest_orthogonal(wanted), rtol=0, atol=2e-6)


def test_copies_and_states_hold_the_same_filters():
    layer, other = nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3)
    for one in (layer, other):
        constrain("layer", one, Constraint())
    moved(layer)
    assert torch.equal(copy.deepcopy(layer).weight, layer.weight)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.weight, layer.weight)


def test_a_second_time_changes_nothing_and_another_way_is_rejected():
    layer = nn.Linear(6, 4)
    constrain("layer", layer, Constraint())
    before = layer.weight.detach().clone()
    constrain("layer", layer, Constraint())
    assert torch.equal(layer.weight, before)
    assert len(layer.parametrizations.weight) == 1
    with pytest.raises(ConfigurationError, match="'layer' is constrained already"):
        constrain("layer", layer, Constraint(orthogonal_map="cayley"))


def test_a_released_layer_is_an_ordinary_one_with_its_filters():
    layer = nn.Conv2d(3, 5, 3, groups=1)
    constrain("layer", layer, Constraint())
    assert constraint_of(layer) == Constraint()
    assert [id(p) for p in constrained_parameters(layer)] == [id(layer.parametrizations.weight.original)]
    weight = layer.weight.detach().clone()
    release(layer)
    release(layer)
    assert type(layer) is nn.Conv2d
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.weight, weight)
    assert constraint_of(layer) is None
    assert constrained_parameters(layer) == []


def test_a_copy_keeps_its_constraint_when_the_layer_is_released():
    layer = nn.Linear(6, 4)
    constrain("layer", layer, Constraint())
    copied = copy.deepcopy(layer)
    release(layer)
    assert constraint_of(copied) == Constraint()
    assert torch.equal(copied.weight, layer.weight)
    release(copied)
    assert type(copied) is type(layer) is nn.Linear


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Embedding(4, 6), "Embedding has no kernel"),
        (lambda: parametrizations.weight_norm(nn.Linear(6, 4)), "made by another parametrization"),
        (lambda: nn.utils.weight_norm(nn.Linear(6, 4)), "made by another parametrization"),
        (lambda: nn.LazyLinear(4), "has no shape yet"),
        (lambda: nn.Linear(6, 4).to(torch.bfloat16), "float32 or better"),
        (lambda: nn.Linear(6, 4, bias=False).requires_grad_(False).apply(lambda m: m.weight.fill_(float("nan"))),
         "not finite"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Lazy modules")
def test_layers_that_cannot_be_constrained_are_named(make, message):
    with pytest.raises(UnsupportedLayerError, match=f"Layer 'some.layer': .*{message}"):
        constrain("some.layer", make(), Constraint())


def test_shared_weights_are_named():
    net = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False), nn.Linear(4, 6))
    check_unshared(net, {"1": net[1], "2": net[2]})
    net[1].weight = net[0].weight
    with pytest.raises(UnsupportedLayerError, match=r"Layer '1': its weight is also '0\.weight'"):
        check_unshared(net, {"1": net[1]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "polar"}, "method='polar'"),
        ({"orthogonal_map": "qr"}, "orthogonal_map='qr'"),
        ({"radius": 2}, "radius=2: must be a number"),
        ({"radius": 0.5}, "needs method='geotorch'"),
        ({"use_trivialization": False}, "needs orthogonal_map='householder'"),
        ({"method": "geotorch", "orthogonal_map": "householder"}, "geotorch has 'matrix_exp' and 'cayley'"),
        ({"method": "geotorch", "use_trivialization": False}, "needs method='orthogonal'"),
    ],
)
def test_options_that_do_not_go_together_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Constraint(**options)
