"""Composed penalties against their formulas, written out, and against other packages' code."""

import math

import pytest
import torch
from torch import nn

from ortho_lightning import functional as OF
from ortho_lightning import regularizers as R
from ortho_lightning.errors import ConfigurationError


def random_kernel(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_filters(filters, **options):
    return R.LayerView(filters=filters, **options)


def of_outputs(outputs):
    return R.LayerView(outputs=outputs)


def identity(size):
    return torch.eye(size, dtype=torch.float64)


def pairs_by_hand(rows):
    """Cosines of all ordered pairs of different rows."""
    unit = [row / row.norm() for row in rows]
    return torch.stack([a @ b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j])


FILTERS = {
    "gram": (R.Gram(), lambda w: ((w @ w.T - identity(len(w))) ** 2).sum()),
    "dso": (
        R.DSO(),
        lambda w: ((w @ w.T - identity(len(w))) ** 2).sum() + ((w.T @ w - identity(w.shape[1])) ** 2).sum(),
    ),
    "mc": (R.mc(), lambda w: (w @ w.T - identity(len(w))).abs().max()),
    "gram_normalized": (R.gram_normalized(), lambda w: pairs_by_hand(w).square().mean()),
    "inputs": (R.gram_normalized(rows="inputs"), lambda w: pairs_by_hand(w.T).square().mean()),
    "mhe0": (R.mhe(s=0), lambda w: -(2 - 2 * pairs_by_hand(w)).log().mean()),
    "mhe1": (R.mhe(s=1), lambda w: (2 - 2 * pairs_by_hand(w)).pow(-0.5).mean()),
    "mhe2": (R.mhe(s=2), lambda w: (2 - 2 * pairs_by_hand(w)).pow(-1).mean()),
    "orthoreg": (R.orthoreg(), lambda w: (1 + (10 * (pairs_by_hand(w) - 1)).exp()).log().sum()),
    "target": (
        R.PairwisePenalty(R.InnerProducts(target=2.0), R.Squares("pairs")),
        lambda w: ((w @ w.T - 2 * identity(len(w))) ** 2).mean(),
    ),
    "lsh": (
        R.PairwisePenalty(R.LSHSimilarity("exact"), R.MeanAndSquares(3.0, 2.0)),
        lambda w: 3 * (s := 2 / math.pi * pairs_by_hand(w).arcsin()).mean() ** 2 + 2 * s.square().mean(),
    ),
    "frobenius": (R.ocnn(), lambda w: torch.linalg.matrix_norm(_smaller(w))),
}


def _smaller(w):
    return w @ w.T - identity(len(w)) if len(w) <= w.shape[1] else w.T @ w - identity(w.shape[1])


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
@pytest.mark.parametrize("name", FILTERS)
def test_a_penalty_on_filters_is_its_formula(name, shape):
    regularizer, formula = FILTERS[name]
    filters = random_kernel(*shape)
    torch.testing.assert_close(regularizer.penalty(of_filters(filters.unsqueeze(0))), formula(filters))


@pytest.mark.parametrize("name", FILTERS)
def test_gradients_of_penalties_on_filters(name):
    regularizer, _ = FILTERS[name]
    assert torch.autograd.gradcheck(
        lambda w: regularizer.penalty(of_filters(w)), random_kernel(2, 3, 5).requires_grad_()
    )


@pytest.mark.parametrize("name", [*FILTERS, "srip"])
def test_zero_and_equal_filters_have_finite_gradients(name):
    regularizer = R.srip() if name == "srip" else FILTERS[name][0]
    filters = random_kernel(1, 5, 6)
    filters[0, 1] = 0
    filters[0, 3] = filters[0, 2]
    filters[0, 4] = -filters[0, 2]
    filters.requires_grad_()
    penalty = regularizer.penalty(of_filters(filters))
    penalty.backward()
    assert penalty.isfinite()
    assert filters.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name in FILTERS if name not in ("target", "lsh", "inputs")])
def test_orthonormal_filters_are_where_the_gradient_ends(name):
    regularizer, _ = FILTERS[name]
    filters = torch.linalg.qr(random_kernel(8, 8)).Q.unsqueeze(0)[:, :5].requires_grad_()
    penalty = regularizer.penalty(of_filters(filters))
    (gradient,) = torch.autograd.grad(penalty, filters)
    if name in ("orthoreg", "mhe0", "mhe1", "mhe2"):  # they ask for more than right angles
        others = torch.linalg.qr(random_kernel(8, 8, seed=1)).Q.unsqueeze(0)[:, :5]
        assert regularizer.penalty(of_filters(others)).item() == pytest.approx(penalty.item())
    elif name == "dso":
        assert penalty.item() == pytest.approx(8 - 5)
        assert gradient.abs().max() < 1e-12
    else:
        assert penalty.item() == pytest.approx(0, abs=1e-12)


def test_groups_are_added_or_averaged():
    both = random_kernel(2, 4, 6)
    for name, combine in [
        ("gram", sum),
        ("gram_normalized", lambda x: sum(x) / 2),
        ("mc", max),
        ("mhe1", lambda x: sum(x) / 2),
    ]:
        regularizer, _ = FILTERS[name]
        each = [regularizer.penalty(of_filters(one.unsqueeze(0))) for one in both]
        torch.testing.assert_close(regularizer.penalty(of_filters(both)), combine(each))


def test_parts_are_compared_within_themselves():
    filters = random_kernel(1, 6, 5)
    found = R.gram_normalized(parts=3).penalty(of_filters(filters))
    expected = R.gram_normalized().penalty(of_filters(filters[0].view(3, 2, 5)))
    torch.testing.assert_close(found, expected)
    with pytest.raises(ConfigurationError, match="parts=4 does not divide its 6 filters"):
        R.gram_normalized(parts=4).penalty(of_filters(filters))


def test_the_closed_forms_are_compositions():
    filters, outputs = random_kernel(2, 4, 6), random_kernel(2, 40, 4)
    composed = R.PairwisePenalty(R.InnerProducts(), R.Squares())
    torch.testing.assert_close(composed.penalty(of_filters(filters)), R.Gram().penalty(of_filters(filters)))
    free = R.PairwisePenalty(R.InnerProducts(target=None), R.Squares())
    torch.testing.assert_close(
        free.penalty(of_filters(filters)), R.Gram(off_diagonal=True).penalty(of_filters(filters))
    )
    composed = R.PairwisePenalty(R.LSHSimilarity("inputs", gamma=4.0), R.MeanAndSquares(3.0, 2.0))
    expected = R.LSH(lambda1=3.0, lambda2=2.0, gamma=4.0).penalty(of_outputs(outputs))
    torch.testing.assert_close(composed.penalty(of_outputs(outputs)), expected)
    composed = R.PairwisePenalty(R.LSHSimilarity("gaussian"), R.MeanAndSquares())
    expected = R.LSH(probe="gaussian").penalty(of_filters(filters, seed=3))
    torch.testing.assert_close(composed.penalty(of_filters(filters, seed=3)), expected)


OUTPUTS = {
    "decov": (
        R.decov(),
        lambda z: ((c := torch.cov(z.T, correction=0)).square().sum() - c.diagonal().square().sum()) / 2,
    ),
    "vicreg": (
        R.vicreg_cov(),
        lambda z: (torch.cov(z.T) * (1 - identity(z.shape[1]))).square().sum() / z.shape[1],
    ),
    "barlow": (R.barlow(), lambda z: (torch.corrcoef(z.T) - identity(z.shape[1])).square().sum()),
    "koleo": (R.KoLeo(), lambda z: OF.koleo(z)),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_penalty_on_outputs_is_its_formula(name):
    regularizer, formula = OUTPUTS[name]
    outputs = random_kernel(20, 5)
    assert regularizer.sampling is not None
    torch.testing.assert_close(regularizer.penalty(of_outputs(outputs.unsqueeze(0))), formula(outputs))


@pytest.mark.parametrize("name", OUTPUTS)
def test_gradients_of_penalties_on_outputs(name):
    regularizer, _ = OUTPUTS[name]
    assert torch.autograd.gradcheck(
        lambda z: regularizer.penalty(of_outputs(z)), random_kernel(2, 6, 3).requires_grad_()
    )


@pytest.mark.parametrize("name", OUTPUTS)
def test_constant_and_equal_outputs_have_finite_gradients(name):
    regularizer, _ = OUTPUTS[name]
    outputs = torch.ones(1, 6, 3, requires_grad=True)
    penalty = regularizer.penalty(of_outputs(outputs))
    penalty.backward()
    assert penalty.isfinite()
    assert outputs.grad.isfinite().all()


def test_vicreg_equals_lightlys():
    loss = pytest.importorskip("lightly.loss.vicreg_loss", reason="lightly is not installed")
    outputs = random_kernel(32, 6)
    torch.testing.assert_close(R.vicreg_cov().penalty(of_outputs(outputs.unsqueeze(0))), loss.covariance_loss(outputs))


def test_srip_converges_to_the_spectral_norm_with_its_memory():
    filters, memory = random_kernel(1, 4, 6), {}
    expected = torch.linalg.matrix_norm(_smaller(filters[0]), 2)
    first = R.srip().penalty(of_filters(filters, memory=memory))
    assert first.item() == pytest.approx(expected.item(), rel=0.2)
    for _ in range(500):
        last = R.srip().penalty(of_filters(filters, memory=memory))
    assert last.item() == pytest.approx(expected.item(), rel=1e-6)


def test_srip_is_deterministic_and_leaves_the_global_state():
    filters, before = random_kernel(1, 4, 6), torch.get_rng_state()
    first = R.srip().penalty(of_filters(filters, name="a", seed=1))
    assert torch.equal(first, R.srip().penalty(of_filters(filters, name="a", seed=2)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), {"stride": (1, 1), "padding": (1, 1)}),
        (nn.Conv2d(4, 6, 3, stride=2, padding=2, groups=2), {"stride": (2, 2), "padding": (2, 2)}),
        (nn.Conv2d(4, 6, 3, padding="same", dilation=2), {"stride": (1, 1), "padding": (2, 2), "dilation": (2, 2)}),
        (nn.Conv1d(4, 6, 5, padding="valid"), {"stride": (1,), "padding": (0,)}),
    ],
)
def test_ocnn_takes_the_layers_own_stride_and_padding(layer, options):
    kernel = layer.weight.detach().unflatten(0, (layer.groups, -1))
    view = of_filters(kernel.flatten(2), module=layer)
    expected = OF.self_convolution(kernel, **options).square().sum().sqrt()
    torch.testing.assert_close(R.ocnn().penalty(view), expected)


@pytest.mark.parametrize(
    "layer", [nn.Linear(5, 3), nn.Conv2d(5, 3, 1), nn.Conv2d(3, 5, 1), nn.ConvTranspose2d(4, 3, 3)]
)
def test_ocnn_is_the_kernel_form_where_there_are_no_shifts(layer):
    filters = random_kernel(1, 5, 3) if layer.weight.shape[0] == 5 else random_kernel(1, 3, 5)
    found = R.ocnn().penalty(of_filters(filters, module=layer))
    torch.testing.assert_close(found, torch.linalg.matrix_norm(_smaller(filters[0])))


@pytest.mark.parametrize(
    ("compare", "reduce", "message"),
    [
        (R.InnerProducts(), R.Energy(), "defined for cosines"),
        (R.Covariance(), R.SoftCosines(), "defined for cosines"),
        (R.SelfConvolution(), R.SpectralNorm(), "defined for matrices"),
        (R.Gram(), R.Squares(), "must be a Comparison"),
    ],
)
def test_what_does_not_fit_is_rejected(compare, reduce, message):
    with pytest.raises(ConfigurationError, match=message):
        R.PairwisePenalty(compare, reduce)


@pytest.mark.parametrize(
    "make",
    [
        lambda: R.InnerProducts(target=-1),
        lambda: R.Cosines(rows="columns"),
        lambda: R.Cosines(parts=0),
        lambda: R.LSHSimilarity(gamma=0),
        lambda: R.SelfConvolution(padding="none"),
        lambda: R.Covariance(max_samples=1),
        lambda: R.Squares(over="all"),
        lambda: R.SpectralNorm(iterations=0),
        lambda: R.SoftCosines(slope=-1),
        lambda: R.PairwisePenalty(R.Cosines(), R.Squares(), scale=0),
    ],
)
def test_arguments_are_checked(make):
    with pytest.raises(ConfigurationError):
        make()


def test_representations_show_every_option():
    for regularizer in [R.ocnn(), R.srip(), R.mhe(), R.decov(), R.barlow(), R.orthoreg(), R.mc()]:
        rebuilt = eval(repr(regularizer), vars(R))
        assert repr(rebuilt) == repr(regularizer)
