"""A weight by GradientShare holds the ratio of the gradients, and survives what trainings go through."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ortho_lightning import GradientShare, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram, Regularizer
from ortho_lightning.schedules import LinearWarmup
from tests.callbacks.helpers import ALL_ROWS, PACKAGES, boring, images, lsh_penalty, make_trainer, twin, vision_module
from tests.callbacks.test_gradient_ratio import TwoLayers, TwoLosses, by_hand, ratio, rows

# ----------------------------------------------------------------------------------------------------------- the rule


@given(st.floats(1e-6, 1e6), st.floats(1e-3, 10))
def test_the_first_measurement_sets_the_weight(found, share):
    assert GradientShare(share).weight(None, found) * found == pytest.approx(share)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6), st.floats(0, 0.9), st.floats(1.5, 10))
def test_later_ones_raise_it_by_the_bound_at_most_and_lower_it_as_far_as_needed(before, found, smoothing, bound):
    rule = GradientShare(0.1, smoothing=smoothing, max_change=bound)
    after = rule.weight(before, found)
    assert after <= before * bound * 1.001
    error, left = (math.log(0.1 / found / weight) for weight in (before, after))
    assert abs(left) <= abs(error) * (1 + 1e-9) + 1e-9
    if error < -math.log(bound) - 1e-9:
        assert left == pytest.approx(0, abs=1e-6)
    elif -math.log(bound) + 1e-9 < error < math.log(bound):
        assert left == pytest.approx(smoothing * error, abs=1e-6)  # the mean of logarithms


def test_measurements_double_their_distance_up_to_the_interval():
    rule = GradientShare(every_n_steps=50)
    steps = [step for step in range(301) if step == 0 or rule.window(step) != rule.window(step - 1)]
    assert steps == [0, 1, 2, 4, 8, 16, 32, 50, 100, 150, 200, 250, 300]
    assert [GradientShare(every_n_steps=1).window(step) for step in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"share": 0}, "share=0"),
        ({"share": -0.1}, "share=-0.1"),
        ({"share": math.inf}, "share=inf"),
        ({"share": math.nan}, "share=nan"),
        ({"share": "0.1"}, "share='0.1'"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"every_n_steps": 1.5}, "every_n_steps=1.5"),
        ({"smoothing": 1.0}, "smoothing=1.0"),
        ({"max_change": 1.0}, "max_change=1.0"),
    ],
)
def test_bad_values_are_named(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        GradientShare(**arguments)


# -------------------------------------------------------------------------------------------------------- in training


def scalars(callback, model, data, tmp_path, **options):
    """What is logged, by step."""
    from pytorch_lightning.loggers import CSVLogger

    trainer = make_trainer(callback, logger=CSVLogger(tmp_path, name="", version=""), **options)
    trainer.fit(model, data)
    header, *lines = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    table: dict[int, dict[str, float]] = {}
    for line in lines:
        row = dict(zip(header, line, strict=True))
        values = {key: float(value) for key, value in row.items() if value and key not in ("step", "epoch")}
        table.setdefault(int(row["step"]), {}).update(values)
    return table


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_first_step_has_the_share_already(accumulate, tmp_path):
    model = TwoLayers()
    reference = twin(model)
    callback = OrthogonalityCallback(ALL_ROWS, weight=GradientShare(0.3), every_n_steps=4)
    data = rows(32, 16)
    found = scalars(callback, model, data, tmp_path, accumulate_grad_batches=accumulate)[0]
    expected = by_hand(reference, next(iter(data)))["ortho/gradient_ratio"]
    assert found["ortho/weight"] == pytest.approx(0.3 / expected, rel=1e-4)
    assert found["ortho/gradient_ratio"] == pytest.approx(0.3, rel=1e-4)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("scale", [1.0, 2.0**14])
def test_the_same_under_loss_scaling(scale, package):
    import importlib

    plugin = importlib.import_module(f"{package}.plugins").MixedPrecision
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    module = vision_module(package)
    callback = OrthogonalityCallback(LSH(), weight=GradientShare(0.1))
    trainer = make_trainer(callback, package, plugins=[plugin("16-mixed", "cpu", scaler=scaler)])
    trainer.fit(module, images(8))
    assert trainer.callback_metrics["ortho/gradient_ratio"].item() == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("regularizer", [LSH(lambda1=0.0), LSH(lambda1=0.0, probe="exact"), Gram()])
def test_the_ratio_stays_near_the_share(regularizer, tmp_path):
    torch.manual_seed(5)
    x = torch.randn(512, 3, 8, 8)
    y = (x.mean((2, 3)) @ torch.randn(3, 5)).argmax(1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=512)
    module = vision_module()
    module.loss = lambda batch: torch.nn.functional.cross_entropy(module.net(batch[0]), batch[1])
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    callback = OrthogonalityCallback(regularizer, weight=GradientShare(0.1, every_n_steps=8))
    table = scalars(callback, module, data, tmp_path, max_steps=200)
    ratios = [row["ortho/gradient_ratio"] for row in table.values() if "ortho/gradient_ratio" in row]
    assert len(ratios) == 4 + 24  # after 0, 1, 2 and 4 steps, and every eight
    assert all(0.1 / 1.5 < found < 0.1 * 1.5 for found in ratios[10:]), [f"{x:.3f}" for x in ratios]


@pytest.mark.parametrize("regularizer", [Gram(), Gram(off_diagonal=True), LSH(probe="exact"), LSH()])
def test_filters_that_begin_orthogonal_do_not_ruin_the_training(regularizer):
    """Their penalty has no gradient but rounding, so the first weight is far too large for the second step."""

    class Model(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(16, 8)
            torch.nn.init.orthogonal_(self.layer.weight)
            self.losses = []

        def training_step(self, batch, batch_idx):
            x = batch[:, :16]
            loss = (self.layer(x) - x[:, 8:].sin()).square().mean()
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    model = Model()
    make_trainer(OrthogonalityCallback(regularizer, weight=GradientShare(0.1)), max_steps=100).fit(
        model, rows(3200, 32)
    )
    assert max(model.losses) <= 1.5 * model.losses[0]
    assert model.losses[-1] < 0.5 * model.losses[0]


def test_a_schedule_multiplies_the_share(tmp_path):
    callback = OrthogonalityCallback(
        LSH(), weight=GradientShare(0.1, 1, smoothing=0.0, max_change=1e6), schedule=LinearWarmup(steps=4)
    )
    table = scalars(callback, vision_module(), images(32), tmp_path, max_steps=6)
    found = {step: row["ortho/gradient_ratio"] for step, row in table.items() if "ortho/gradient_ratio" in row}
    # nothing joins in step 0, so the weight is measured from step 1 on
    assert found == pytest.approx({1: 0.025, 2: 0.05, 3: 0.075, 4: 0.1, 5: 0.1}, rel=1e-3)


def test_a_second_training_begins_anew():
    callback = OrthogonalityCallback(LSH(), weight=GradientShare(0.1))
    module = vision_module()
    module.net[5].p = 0.0
    kept = []
    for _ in range(2):
        make_trainer(callback, max_steps=3).fit(copy.deepcopy(module), images(12))
        kept.append(callback.state_dict())
    assert kept[0] == kept[1]


def test_manual_optimization_counts_all_losses_of_a_batch(tmp_path):
    model = TwoLosses()
    reference = twin(model)
    data = rows()
    x = next(iter(data))
    found = scalars(OrthogonalityCallback(ALL_ROWS, weight=GradientShare(0.2)), model, data, tmp_path)[0]
    above, task = 0.0, 0.0
    for name in ("below", "layer"):
        layer = getattr(reference, name)
        output = layer(x)
        penalty, loss = lsh_penalty(output - layer.bias), output.square().mean()
        above += torch.autograd.grad(penalty, layer.weight, retain_graph=True)[0].square().sum().item()
        task += torch.autograd.grad(loss, layer.weight, retain_graph=True)[0].square().sum().item()
    assert found["ortho/gradient_ratio"] == pytest.approx(0.2, rel=1e-4)
    assert found["ortho/weight"] == pytest.approx(0.2 / math.sqrt(above / task), rel=1e-4)


def test_gradients_that_tell_nothing_are_warned_of_once_and_nothing_joins():
    class Constant(Regularizer):
        def penalty(self, layer):
            return 0.0 * layer.filters.sum()

    module = vision_module()
    reference = twin(module)
    for each in (module, reference):
        optimizer = torch.optim.SGD(each.parameters(), lr=1e-3)
        each.configure_optimizers = lambda optimizer=optimizer: optimizer
    torch.manual_seed(4)
    callback = OrthogonalityCallback(Constant(), weight=GradientShare(0.1))
    with pytest.warns(UserWarning, match="GradientShare.*no step so far gave a ratio") as caught:
        make_trainer(callback, max_steps=20).fit(module, images(80))
    assert sum("gave a ratio" in str(each.message) for each in caught) == 1
    torch.manual_seed(4)
    make_trainer(max_steps=20).fit(reference, images(80))
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in module.state_dict().items())
    assert all(value.isfinite().all() for value in module.state_dict().values())


def test_it_is_refused_where_weights_are_sharded():
    from pytorch_lightning.strategies import ModelParallelStrategy

    callback = OrthogonalityCallback(weight=GradientShare(0.1))
    trainer = make_trainer(callback)

    class Sharding:
        strategy = object.__new__(ModelParallelStrategy)
        callbacks = trainer.callbacks

    with pytest.raises(ConfigurationError, match=r"GradientShare.*under strategy ModelParallelStrategy"):
        callback.on_fit_start(Sharding, vision_module())


def test_the_weight_of_the_first_step_is_that_of_both_gradients_by_autograd():
    # of a penalty on weights, with nothing of the package but its formula
    model = TwoLayers()
    reference = twin(model)
    trainer = make_trainer(OrthogonalityCallback(Gram(), weight=GradientShare(0.1), log_every_n_steps=1))
    data = rows()
    trainer.fit(model, data)
    weights = [reference.below.weight, reference.layer.weight]
    penalty = sum(OF.gram_penalty(weight) for weight in weights)
    loss = reference.training_step(next(iter(data)), 0)
    expected = 0.1 / ratio(penalty, loss, weights)
    assert trainer.callback_metrics["ortho/weight"].item() == pytest.approx(expected, rel=1e-4)
