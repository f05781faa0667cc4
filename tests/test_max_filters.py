"""A penalty on some of the filters, others in each step, is on average that on all of them."""

from itertools import combinations

import pytest
import torch
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.demos.boring_classes import BoringModel

from ortho_lightning import LSH, Gram, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import (
    Cosines,
    Covariance,
    Energy,
    InnerProducts,
    LayerView,
    MeanAndSquares,
    PairwisePenalty,
    Regularizer,
    Squares,
    gram_normalized,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_over_subsets(penalty, values, m, dim):
    """The mean of a penalty and of its gradient over all ways to choose m filters."""
    values = values.clone().requires_grad_()
    chosen = [torch.tensor(each) for each in combinations(range(values.shape[dim]), m)]
    mean = torch.stack([penalty(values.index_select(dim, each)) for each in chosen]).mean()
    return mean.detach(), torch.autograd.grad(mean, values)[0]


def value_and_gradient(penalty, values):
    values = values.clone().requires_grad_()
    value = penalty(values)
    return value.detach(), torch.autograd.grad(value, values)[0]


@pytest.mark.parametrize("off_diagonal", [False, True])
@pytest.mark.parametrize("shape", [(1, 6, 9), (2, 6, 3)])
@pytest.mark.parametrize("m", [2, 5])
def test_gram_of_some_is_without_bias(shape, m, off_diagonal):
    kernel = random(*shape)
    found = mean_over_subsets(lambda some: OF.gram_penalty(some, off_diagonal, total=6), kernel, m, dim=1)
    expected = value_and_gradient(lambda all_: OF.gram_penalty(all_, off_diagonal), kernel)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("off_diagonal", [False, True])
def test_gram_of_some_has_correct_derivatives(off_diagonal):
    def penalty(kernel):
        return OF.gram_penalty(kernel, off_diagonal, total=7)

    kernel = random(2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(penalty, kernel)
    assert torch.autograd.gradgradcheck(penalty, kernel)


def test_gram_of_all_does_not_depend_on_being_told_so():
    kernel = random(2, 6, 3)
    torch.testing.assert_close(OF.gram_penalty(kernel, total=6), OF.gram_penalty(kernel), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"total": 3}, {"total": 9, "norm": "spectral"}])
def test_gram_rejects_a_total_that_has_no_meaning(options):
    with pytest.raises(ConfigurationError, match=f"total={options['total']}"):
        OF.gram_penalty(random(4, 5), **options)


MEANS = [
    LSH(probe="exact", max_filters=4),
    LSH(max_filters=4),
    gram_normalized(max_filters=4),
    PairwisePenalty(Cosines(), Energy(), max_filters=4),
    PairwisePenalty(Covariance(), Squares("pairs"), max_filters=4),
    PairwisePenalty(InnerProducts(target=None), MeanAndSquares(), max_filters=4),
    Gram(max_filters=4),
    Gram(off_diagonal=True, max_filters=4),
]


@pytest.mark.parametrize("regularizer", MEANS, ids=repr)
def test_the_average_over_many_steps_is_the_penalty_of_all_filters(regularizer):
    kernel, x = random(1, 7, 5, seed=1), random(60, 5, seed=2)
    outputs = (x @ kernel[0].T).unsqueeze(0)
    views = [LayerView(kernel, outputs, seed=seed) for seed in range(4000)]
    found = torch.stack([regularizer.penalty(view.some(4)) for view in views])
    expected = regularizer.penalty(views[0])
    error = found.std() / len(found) ** 0.5
    assert error > 0
    assert abs(found.mean() - expected) < 4 * error


def test_the_filters_drawn_are_the_same_of_weights_and_outputs_and_of_all_groups():
    filters = torch.arange(6.0).expand(3, 6).unsqueeze(2)
    outputs = torch.arange(6.0).expand(3, 9, 6)
    drawn = set()
    before = torch.random.get_rng_state()
    for seed in range(300):
        view = LayerView(filters, outputs, seed=seed).some(2)
        first, second = view.filters[0, :, 0].tolist()
        assert first != second
        assert view.filters.shape == (3, 2, 1)
        torch.testing.assert_close(view.outputs, view.filters.mT.expand(3, 9, 2))
        assert view.total_filters == 6
        drawn.add((first, second))
    assert len(drawn) == 30  # every pair in both orders
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("count", [None, 6, 7])
def test_as_many_as_there_are_is_all_of_them(count):
    filters = random(1, 6, 4)
    view = LayerView(filters).some(count)
    assert view.filters is filters
    assert view.total_filters == 6


class Watching(Regularizer):
    max_filters = 2

    def __init__(self):
        self.seen = []

    def penalty(self, layer):
        assert layer.total_filters == 4
        self.seen.append((layer.name, layer.filters.detach().clone()))
        return layer.filters.square().mean()


class TwoLayers(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(32, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))


def fit(*callbacks, **options):
    seed_everything(1)
    module = TwoLayers()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **{"max_steps": 6, **options},
    )
    trainer.fit(module)
    return module


def test_a_regularizer_sees_other_filters_in_each_step_and_layer():
    regularizer = Watching()
    module = fit(
        OrthogonalityCallback(regularizer, layers="layer.[01]", weight=1e-9, monitor=None, log_every_n_steps=None)
    )
    assert [name for name, _ in regularizer.seen] == 6 * ["layer.0", "layer.1"]
    rows = {name: [] for name in ("layer.0", "layer.1")}
    for name, filters in regularizer.seen:
        weight = module.get_submodule(name).weight
        distances = torch.cdist(filters[0], weight)
        rows[name].append(tuple(distances.argmin(1).tolist()))
    assert all(len(set(own)) == 2 for steps in rows.values() for own in steps)
    assert rows["layer.0"] != rows["layer.1"]
    assert all(len(set(steps)) > 1 for steps in rows.values())
    again = Watching()
    fit(OrthogonalityCallback(again, layers="layer.[01]", weight=1e-9, monitor=None, log_every_n_steps=None))
    for (_, first), (_, second) in zip(regularizer.seen, again.seen, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("regularizer", "weight"),
    [(Gram(max_filters=2), 0.1), (LSH(probe="exact", max_filters=2), 1.0), (gram_normalized(max_filters=2), 1.0)],
)
def test_training_with_some_filters_lowers_the_penalty_of_all(regularizer, weight):
    plain = fit(max_steps=40)
    penalized = fit(OrthogonalityCallback(regularizer, layers="layer.[01]", weight=weight), max_steps=40)

    def cosines(module):
        with torch.no_grad():
            kernels = [module.layer[i].weight for i in (0, 1)]
            return sum(OF.off_diagonal(OF.pairwise_cosines(kernel)).square().sum().item() for kernel in kernels)

    assert cosines(penalized) < 0.8 * cosines(plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LSH(max_filters=1), "max_filters=1"),
        (lambda: LSH(max_filters=2.5), "max_filters=2.5"),
        (lambda: LSH(reduction="sum", max_filters=8), "reduction='sum'"),
        (lambda: Gram(norm="spectral", max_filters=8), "norm='spectral'"),
        (lambda: Gram(max_filters=0), "max_filters=0"),
        (lambda: PairwisePenalty(Cosines(), Squares(), max_filters=8), r"Squares\('sum'\)"),
        (lambda: PairwisePenalty(InnerProducts(), Squares("pairs"), max_filters=8), "InnerProducts"),
        (lambda: gram_normalized("inputs", max_filters=8), "rows='inputs'"),
        (lambda: gram_normalized(parts=2, max_filters=8), "parts=2"),
    ],
)
def test_where_some_filters_would_give_another_penalty_it_is_said(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_processes_cannot_join_statistics_of_different_filters():
    callback = OrthogonalityCallback(LSH(max_filters=2), layers="layer.[01]", sync="global")
    with pytest.raises(ConfigurationError, match=r"sync='global' with max_filters=2"):
        fit(callback)
