"""Sampled outputs: inputs times filters, at positions that move with the seed, with a gradient like a slice's."""

import importlib
import itertools
import math
import sys

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ortho_lightning import LSH, Gram, OrthogonalityCallback
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import layer_filters
from ortho_lightning.random import mix
from tests.callbacks.helpers import boring, make_trainer

CONVOLUTIONS = [
    (nn.Conv1d(6, 8, 3, padding=1, bias=True), (2, 6, 9)),
    (nn.Conv1d(6, 8, 3, stride=2, groups=2), (2, 6, 9)),
    (nn.Conv2d(4, 6, 3, padding=1, dilation=2), (3, 4, 8, 7)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding="valid", groups=2), (3, 4, 8, 7)),
    (nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), (3, 4, 8, 7)),
    (nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect", bias=False), (3, 4, 8, 7)),
    (nn.Conv3d(2, 4, 2, padding=1), (2, 2, 4, 5, 3)),
]
LINEAR = [(nn.Linear(5, 4), (7, 5)), (nn.Linear(5, 4, bias=False), (2, 3, 5)), (nn.Linear(5, 4), (5,))]


def patches_by_hand(layer, x):
    """The inputs of every output position as the filters see them, groups apart: (groups, n, d), n in output order."""
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    spatial = x.shape[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    starts = [range(0, s - r + 1, t) for s, r, t in zip(spatial, reach, layer.stride, strict=True)]
    rows = []
    for image in x:
        for corner in itertools.product(*starts):
            cut = tuple(slice(c, c + r, d) for c, r, d in zip(corner, reach, layer.dilation, strict=True))
            rows.append(image[(slice(None), *cut)].reshape(layer.groups, -1))
    return torch.stack(rows, 1)


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS + LINEAR)
def test_samples_are_inputs_times_filters(layer, shape):
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    expected = patches_by_hand(layer, x) @ layer_filters(layer).mT
    samples = sampling.as_samples(layer, sampling.sample_outputs(layer, layer(x), None, seed=0))
    torch.testing.assert_close(samples, expected)


@pytest.mark.parametrize(("layer", "shape"), CONVOLUTIONS + LINEAR)
@pytest.mark.parametrize("max_samples", [None, 1, 5, 12])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_outputs_found_again_from_detached_inputs(layer, shape, max_samples, seed):
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    output = layer(x)
    expected = sampling.as_samples(layer, sampling.sample_outputs(layer, output, max_samples, seed))
    rows = sampling.outputs_from_inputs(layer, sampling.sample_inputs(layer, x, output, max_samples, seed))
    found = sampling.as_samples(layer, rows, biased=False)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    assert x.grad is None
    layer.zero_grad()


def test_unbatched_image():
    layer = nn.Conv2d(3, 4, 3).double()
    x = torch.randn(3, 6, 6, dtype=torch.float64)
    output = layer(x)
    expected = sampling.sample_outputs(layer, output, 4, seed=3) - layer.bias
    rows = sampling.outputs_from_inputs(layer, sampling.sample_inputs(layer, x, output, 4, seed=3))
    torch.testing.assert_close(rows, expected)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 40), st.integers(0, 2**30))
def test_sample_is_no_larger_than_asked_and_of_constant_size(sizes, max_samples, seed):
    output = torch.randn(*sizes, 2)
    layer = nn.Linear(1, 2)
    rows = sampling.sample_outputs(layer, output, max_samples, seed)
    assert 1 <= len(rows) <= max_samples
    assert rows.shape == sampling.sample_outputs(layer, output, max_samples, seed + 1).shape


@pytest.mark.parametrize("shape", [(8, 2, 32, 32), (8, 2, 7, 5), (100, 2, 4, 4)])
def test_every_position_is_visited_over_the_steps(shape):
    output = torch.arange(shape[0] * shape[2] * shape[3]).view(shape[0], 1, *shape[2:]).expand(shape).float()
    layer = nn.Conv2d(1, 2, 1)
    visited = torch.zeros(output[:, 0].numel())
    for step in range(4000):
        rows = sampling.sample_outputs(layer, output, 32, mix(step, 0))[:, 0].long()
        assert rows.unique().numel() == rows.numel()
        visited[rows] += 1
    assert (visited > 0).all()
    # no position is left to chance: columns and rows are visited alike, not one of them alone
    per_column = visited.view(shape[0], *shape[2:]).sum((0, 1))
    assert per_column.max() < 3 * per_column.min()


@pytest.mark.parametrize(
    ("shape", "max_samples", "times"),
    [((128, 32, 32), 1024, 1), ((128, 16, 16), 1024, 4), ((16, 8, 8), 128, 2), ((10, 6), 30, 5), ((64, 12), 96, 8)],
)
def test_images_are_looked_at_in_different_places(shape, max_samples, times):
    """With the same places in every image, most places of the map would not be seen in a step."""
    layer = nn.Conv2d(1, 1, 1) if len(shape) == 3 else nn.Conv1d(1, 1, 1)
    place = torch.arange(math.prod(shape[1:]))
    output = place.view(1, 1, *shape[1:]).expand(shape[0], 1, *shape[1:]).float()
    for seed in range(5):
        rows = sampling.sample_outputs(layer, output, max_samples, seed)
        assert torch.equal(rows.long().flatten().bincount(minlength=len(place)), torch.full((len(place),), times))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 900), st.integers(0, 2**30))
def test_sample_has_as_many_different_rows_as_asked_for(batch, size, max_samples, seed):
    output = torch.arange(batch * size).view(batch, size, 1).expand(-1, -1, 2).double()
    rows = sampling.sample_outputs(nn.Linear(1, 2), output, max_samples, seed)[:, 0]
    assert rows.unique().numel() == len(rows) == min(max_samples, batch * size)
    per_image = (rows.long() // size).bincount(minlength=batch)
    assert per_image.max() - per_image.min() <= 1


@pytest.mark.parametrize(
    ("batch", "size", "max_samples"),
    [(128, 64, 768), (1, 1024, 768), (2, 1024, 768), (16, 49, 100), (100, 16, 32), (7, 5, 30)],
)
def test_every_position_is_as_likely_as_any_other(batch, size, max_samples):
    """Chi-square: counts over many steps against equal ones, on images, on the map's places and on rows and columns."""
    output = torch.arange(batch * size).view(batch, size, 1).float()
    steps, visited = 3000, torch.zeros(batch * size, dtype=torch.float64)
    layer = nn.Linear(1, 1)
    for step in range(steps):
        visited[sampling.sample_outputs(layer, output, max_samples, mix(step, 7))[:, 0].long()] += 1
    assert visited.sum() == steps * max_samples
    by_place = visited.view(batch, size)
    for counts in (
        visited,
        by_place.sum(0),
        by_place.sum(1),
        *(by_place.sum(0).view(-1, w).sum(0) for w in (8,) if size % w == 0),
    ):
        expected = counts.sum() / len(counts)
        chi_square = ((counts - expected) ** 2 / expected).sum()
        freedom = len(counts) - 1
        # samples of a step repel each other, so that counts vary less than independent ones
        assert chi_square < freedom + 5 * math.sqrt(2 * max(freedom, 1)) + 5


def test_sample_survives_an_in_place_successor():
    layer = nn.Conv2d(2, 3, 1)
    output = layer(torch.randn(2, 2, 4, 4))
    rows = sampling.sample_outputs(layer, output, None, 0)
    before = rows.detach().clone()
    output.relu_()
    assert torch.equal(rows, before)


def test_bias_gets_no_gradient_from_samples():
    layer = nn.Linear(3, 4).double()
    output = layer(torch.randn(6, 3, dtype=torch.float64))
    sampling.as_samples(layer, sampling.sample_outputs(layer, output, None, 0)).pow(3).sum().backward()
    torch.testing.assert_close(layer.bias.grad, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12)
    assert layer.weight.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_samples_of_reduced_precision_are_float32(dtype):
    layer = nn.Linear(3, 4).to(dtype)
    rows = sampling.sample_outputs(layer, torch.randn(6, 4).to(dtype), None, 0)
    assert sampling.as_samples(layer, rows).dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------- tap

TAPPED = [
    (nn.Conv2d(3, 6, 3, padding=1, bias=False), (4, 3, 8, 8)),
    (nn.Conv2d(3, 6, 3, stride=2, groups=3), (4, 3, 9, 7)),
    (nn.Conv1d(3, 6, 3), (4, 3, 12)),
    (nn.Conv3d(2, 4, 2), (2, 2, 4, 5, 3)),
    (nn.Linear(5, 4), (7, 5)),
    (nn.Linear(5, 4), (3, 6, 5)),
    (nn.Conv2d(3, 6, 3), (3, 8, 8)),
    (nn.Linear(5, 4), (5,)),
]

SUCCESSORS = {
    "norm": lambda z, x: F.layer_norm(z, z.shape[-1:]),
    "relu in place": lambda z, x: F.relu(z, inplace=True) * 1.5,
    "residual": lambda z, x: (z + x).sin(),
    "residual twice": lambda z, x: (z + x) + (z + x.cos()),
    "two branches": lambda z, x: z.sin() + z.cos(),
    "expanded gradient": lambda z, x: z,
    "view": lambda z, x: z.flatten().exp(),
    "map transposed": lambda z, x: (z.mT if z.dim() > 1 else z).contiguous().exp(),
    "channels last": lambda z, x: z.movedim(-1, 0).contiguous().exp(),
    "concatenated": lambda z, x: torch.cat([z, x]).sin(),
    "nothing": lambda z, x: x.sin(),
}


def penalized(layer, x, successor, take, max_samples=6):
    """Gradients of inputs, parameters and a residual branch for a loss on the output and on the sampled rows."""
    x = x.clone().requires_grad_()
    output = layer(x)
    branch = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype).requires_grad_()
    handed_on, rows = take(layer, output, max_samples, 3)
    loss = successor(handed_on, branch.mul(1)).sum() + 2 * sampling.as_samples(layer, rows).tanh().square().sum()
    return torch.autograd.grad(loss, [x, branch, *layer.parameters()], allow_unused=True)


def plain(layer, output, max_samples, seed):
    return output, sampling.sample_outputs(layer, output, max_samples, seed)


@pytest.mark.parametrize(("layer", "shape"), TAPPED)
@pytest.mark.parametrize("successor", SUCCESSORS)
def test_tap_has_the_gradient_of_a_slice(layer, shape, successor):
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64)
    found = penalized(layer, x, SUCCESSORS[successor], sampling.tap)
    for a, b in zip(found, penalized(layer, x, SUCCESSORS[successor], plain), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("layer", "shape"), TAPPED[:6])
def test_batches_are_tapped_not_sliced(layer, shape):
    output = layer(torch.randn(shape, dtype=layer.weight.dtype))
    if output._is_view():
        pytest.skip("this version of torch gives a linear layer on three axes a view for its output")
    before = output.grad_fn
    handed_on, _ = sampling.tap(layer, output, 5, seed=0)
    assert handed_on.grad_fn is not before


def test_tap_hands_on_the_same_memory_and_copies_the_rows():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    output = layer(x)
    handed_on, rows = sampling.tap(layer, output, 5, seed=0)
    assert handed_on.data_ptr() == output.data_ptr()
    assert torch.equal(rows, sampling.sample_outputs(layer, output, 5, seed=0))
    before = rows.clone()
    F.relu(handed_on, inplace=True)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("keep", ["hook", "retain_grad", "given"])
def test_tap_never_writes_into_a_gradient_that_somebody_holds(keep):
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    handed_on, rows = sampling.tap(layer, layer(x), None, seed=0)
    held = []
    after = handed_on + 1
    if keep == "hook":
        handed_on.register_hook(held.append)
    elif keep == "retain_grad":
        handed_on.retain_grad()
        after.retain_grad()
    given = torch.ones_like(after)
    torch.autograd.backward([after, rows.sum()], [given, torch.tensor(5.0)])
    held += [tensor.grad for tensor in (handed_on, after) if keep == "retain_grad"]
    for gradient in [given, *held]:
        assert torch.equal(gradient, torch.ones_like(after))
    # all rows, so each output got its own gradient 1 and the rows' 5
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 6.0 * 2 * 16))


def test_tap_copies_no_gradient_between_a_convolution_and_a_norm(monkeypatch):
    """The reason for the node: in the usual network nobody else holds the gradient, and it is written in place."""
    copied = []
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, *a, **k: copied.append(self.shape) or clone(self, *a, **k))
    layer, norm, x = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), torch.randn(2, 3, 6, 6)
    handed_on, rows = sampling.tap(layer, layer(x), 5, seed=0)
    loss = norm(handed_on).square().sum() + rows.sum()
    copied.clear()
    loss.backward()
    assert copied == []


def test_tap_gives_the_same_gradient_where_torch_does_not_tell_who_holds_one(monkeypatch):
    def gradients():
        torch.manual_seed(0)
        layer, norm, x = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), torch.randn(2, 3, 6, 6)
        handed_on, rows = sampling.tap(layer, layer(x), 5, seed=0)
        (norm(handed_on).square().sum() + rows.square().sum()).backward()
        return layer.weight.grad, layer.bias.grad

    expected = gradients()
    module = importlib.import_module("ortho_lightning.layers.sampling.tap")  # the function has the same name
    monkeypatch.setattr(module, "_holders", lambda gradient: None)
    for found, reference in zip(gradients(), expected, strict=True):
        assert torch.equal(found, reference)


def test_tap_does_not_spoil_what_an_earlier_hook_has_saved():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    output = layer(x)
    activity = output.square().mean()
    handed_on, rows = sampling.tap(layer, output, 5, seed=0)
    (activity + handed_on.sin().sum() + rows.sum()).backward()
    assert layer.weight.grad.isfinite().all()


def test_an_output_kept_before_the_tap_stays_the_one_that_goes_on():
    layer, x = nn.Conv2d(3, 4, 3).double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)

    def gradient(take):
        kept = layer(x)
        handed_on, rows = take(layer, kept, 5, 0)
        logits = F.relu(handed_on, inplace=True).sum((2, 3))
        loss = logits.sin().sum() + kept.square().sum() + rows.square().sum()
        return torch.autograd.grad(loss, layer.weight)[0]

    torch.testing.assert_close(gradient(sampling.tap), gradient(plain))


def test_autograd_still_notices_a_change_in_place_of_what_was_saved():
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    output = layer(x)
    activity = output.square().mean()
    handed_on, _ = sampling.tap(layer, output, 5, seed=0)
    F.relu(handed_on, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        activity.backward()


@pytest.mark.parametrize("transform", ["jvp", "grad", "vmap", "dual"])
def test_under_function_transforms_the_plain_slice_stands_in(transform):
    layer, x = nn.Linear(5, 4), torch.randn(6, 5)

    def total(x):
        output, rows = sampling.tap(layer, layer(x), 3, seed=0)
        return output.sum() + rows.square().sum()

    if transform == "jvp":
        value, _ = torch.func.jvp(total, (x,), (torch.ones_like(x),))
    elif transform == "grad":
        assert torch.func.grad(total)(x).isfinite().all()
        return
    elif transform == "vmap":
        value = torch.func.vmap(total)(x[None])[0]
    else:
        with torch.autograd.forward_ad.dual_level():
            value = total(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
    torch.testing.assert_close(value, total(x))


def test_tap_takes_a_sparse_gradient():
    layer = nn.Linear(5, 4)
    handed_on, rows = sampling.tap(layer, layer(torch.randn(6, 5)), 3, seed=0)
    loss = F.embedding(torch.tensor([0, 2]), handed_on, sparse=True).sum() + rows.sum()
    loss.backward()
    torch.testing.assert_close(layer.bias.grad, torch.full((4,), 2.0 + 3.0))


@pytest.mark.filterwarnings("ignore")
def test_backward_hooks_of_the_older_kind_see_the_layer_and_not_the_tap():
    layer, seen = nn.Linear(5, 4), []
    layer.register_backward_hook(lambda module, inputs, outputs: seen.append(len(inputs)))
    x = torch.randn(6, 5, requires_grad=True)
    layer(x).sum().backward()
    layer.register_forward_hook(lambda module, args, output: sampling.tap(module, output, 3, 0)[0])
    layer(x).sum().backward()
    assert seen[0] == seen[1] == 3


@pytest.mark.parametrize(("layer", "shape"), TAPPED[:2] + TAPPED[4:5])
def test_tap_can_be_differentiated_twice(layer, shape):
    layer = layer.double()

    def loss(x):
        handed_on, rows = sampling.tap(layer, layer(x).sin() if isinstance(layer, nn.Linear) else layer(x), 5, seed=1)
        return handed_on.sin().sum() + rows.square().sum()

    assert torch.autograd.gradgradcheck(loss, torch.randn(shape, dtype=torch.float64, requires_grad=True))


def test_tap_inside_a_checkpointed_region_has_the_gradient_of_a_slice():
    layer = nn.Conv2d(3, 4, 3).double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)

    def gradients(take, checkpointed):
        rows = []

        def block(x):
            # the recomputation leaves the rows out, as the callback's hook does
            output = layer(x)
            if not rows:
                output, sampled = take(layer, output, 5, 0)
                rows.append(sampled)
            return F.relu(output, inplace=True).sin()

        output = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)
        loss = output.sum() + rows[0].square().sum()
        return torch.autograd.grad(loss, list(layer.parameters()))

    for a, b in zip(gradients(sampling.tap, True), gradients(plain, False), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("regularizer", [LSH(), Gram()])
def test_a_backward_that_is_replaced_ends_no_training(package, regularizer, monkeypatch):
    module = sys.modules[sampling.tap.__module__]
    module._lone.cache_clear()
    monkeypatch.setattr(torch.Tensor, "backward", lambda self, *args, **kwargs: None)
    callback = OrthogonalityCallback(regularizer, weight=0.1)
    make_trainer(callback, package, max_steps=2).fit(boring(package).BoringModel())
    assert callback.penalty is not None
    assert (module._lone.cache_info().currsize == 0) == isinstance(regularizer, Gram)


def test_where_no_backward_runs_at_all_a_gradient_is_copied(monkeypatch):
    module = sys.modules[sampling.tap.__module__]
    module._lone.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "backward", lambda *args, **kwargs: None)
        assert module._lone() == "unknown"
    module._lone.cache_clear()
