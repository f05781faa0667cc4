import math

import pytest
import torch

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram, LayerView


def kernel(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def of_filters(filters, seed=0):
    return LayerView(filters=filters, seed=seed)


def of_outputs(outputs):
    return LayerView(outputs=outputs)


def test_lsh_on_inputs_is_the_functional_penalty():
    outputs = kernel(2, 30, 4)
    settings = {"lambda1": 3.0, "lambda2": 2.0, "gamma": 4.0, "reduction": "sum"}
    assert LSH(**settings).sampling is not None
    torch.testing.assert_close(LSH(**settings).penalty(of_outputs(outputs)), OF.lsh_penalty(outputs, **settings))
    normalized = LSH(normalize="rms").penalty(of_outputs(outputs))
    torch.testing.assert_close(normalized, OF.lsh_penalty(OF.rms_normalize(outputs), lambda1=0.0))


def test_exact_is_the_limit_of_many_gaussian_directions():
    filters = kernel(1, 5, 8)
    exact = LSH(probe="exact").penalty(of_filters(filters))
    sharp = LSH(probe="gaussian", gamma=1000.0, max_samples=200_000).penalty(of_filters(filters, seed=1))
    assert sharp.item() == pytest.approx(exact.item(), rel=0.02)


def test_gaussian_directions_depend_on_the_seed_alone_and_leave_the_global_state():
    filters, regularizer = kernel(1, 5, 8), LSH(probe="gaussian")
    assert regularizer.sampling is None
    before = torch.get_rng_state()
    first = regularizer.penalty(of_filters(filters, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(regularizer.penalty(of_filters(filters, seed=3)), first)
    assert not torch.equal(regularizer.penalty(of_filters(filters, seed=4)), first)


@pytest.mark.parametrize("probe", ["gaussian", "exact"])
def test_probes_have_correct_gradients(probe):
    regularizer = LSH(probe=probe, gamma=1.0, max_samples=20)
    assert torch.autograd.gradcheck(
        lambda w: regularizer.penalty(of_filters(w, seed=5)), kernel(2, 3, 5).requires_grad_()
    )


@pytest.mark.parametrize("probe", ["gaussian", "exact"])
def test_probes_reach_near_zero_for_orthogonal_filters(probe):
    regularizer = LSH(probe=probe, max_samples=4096)
    orthogonal = torch.eye(4, 6, dtype=torch.float64).unsqueeze(0)
    assert regularizer.penalty(of_filters(orthogonal)).item() <= 3 * regularizer.floor(of_filters(orthogonal)) + 1e-12


def test_floors():
    outputs, filters = of_outputs(torch.empty(2, 50, 6)), of_filters(torch.empty(1, 6, 9))
    assert LSH().floor(outputs) == OF.lsh_penalty_floor(50, 6, lambda1=0.0)
    assert LSH(lambda1=100.0).floor(outputs) == OF.lsh_penalty_floor(50, 6)
    summed = OF.lsh_penalty_floor(50, 6, lambda1=100.0, reduction="sum")
    assert LSH(lambda1=100.0, reduction="sum").floor(outputs) == 2 * summed
    drawn = LSH(probe="gaussian", max_samples=64).floor(filters)
    assert drawn == OF.lsh_penalty_floor(64, 6, lambda1=0.0)
    assert LSH(probe="exact").floor(of_filters(torch.empty(1, 6, 9))) == 0.0
    assert Gram().floor(of_filters(torch.empty(1, 6, 9))) == 0.0
    assert Gram().floor(of_filters(torch.empty(2, 9, 6))) == 6.0
    assert Gram(off_diagonal=True).floor(of_filters(torch.empty(1, 9, 6))) is None


def test_gram_is_the_functional_penalty():
    filters = kernel(2, 4, 6)
    torch.testing.assert_close(Gram().penalty(of_filters(filters)), OF.gram_penalty(filters))
    torch.testing.assert_close(
        Gram(norm="spectral").penalty(of_filters(filters)), OF.gram_penalty(filters, norm="spectral")
    )


def test_statistics_give_the_penalty_of_the_joined_rows():
    outputs = kernel(2, 40, 5)
    regularizer = LSH(lambda1=7.0)
    joined = sum(regularizer.statistics(of_outputs(part)) for part in outputs.split(20, dim=1))
    torch.testing.assert_close(regularizer.penalty_from_statistics(joined), regularizer.penalty(of_outputs(outputs)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0}, "gamma=0"),
        ({"gamma": None}, "gamma=None"),
        ({"gamma": math.inf}, "gamma=inf"),
        ({"lambda1": math.nan}, "lambda1=nan"),
        ({"lambda2": -0.5}, r"lambda2=-0\.5"),
        ({"reduction": "max"}, "reduction='max'"),
        ({"probe": "noise"}, "probe='noise'"),
        ({"normalize": True}, "normalize=True"),
        ({"max_samples": 1}, "max_samples=1"),
        ({"probe": "exact", "detach_inputs": True}, "detach_inputs=True"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        LSH(**settings)


def test_settings_show():
    assert "gamma=2.0" in repr(LSH(gamma=2.0))
    assert repr(Gram(norm="spectral")) == "Gram(off_diagonal=False, norm='spectral', max_filters=None)"


@pytest.mark.parametrize(
    "regularizer", [LSH(), LSH(normalize="rms"), LSH(probe="gaussian"), LSH(probe="exact"), Gram()]
)
def test_penalties_of_several_layers_are_those_of_each(regularizer):
    values = [kernel(1, 30, 4), kernel(2, 20, 3), kernel(1, 30, 4), kernel(1, 30, 4).float(), kernel(1, 700, 200)]
    views = [LayerView(filters=each, outputs=each, seed=seed) for seed, each in enumerate(values, start=3)]
    for found, view in zip(regularizer.penalties(views), views, strict=True):
        torch.testing.assert_close(found, regularizer.penalty(view))


def test_a_subclass_with_a_penalty_of_its_own_is_asked_for_it():
    class Twice(LSH):
        def penalty(self, layer):
            return 2 * super().penalty(layer)

    views = [of_outputs(kernel(1, 30, 4)), of_outputs(kernel(1, 30, 4))]
    for found, plain in zip(Twice().penalties(views), LSH().penalties(views), strict=True):
        torch.testing.assert_close(found, 2 * plain)


def test_a_view_computes_its_parts_when_they_are_asked_for_and_once():
    made = []
    view = LayerView(filters=lambda: made.append(1) or kernel(1, 3, 4), name="net.0")
    assert not made
    assert view.filters is view.filters
    assert made == [1]
    assert not view.has_outputs
    with pytest.raises(ConfigurationError, match=r"layer 'net\.0'.*outputs.*sampling = Sampling"):
        _ = view.outputs
