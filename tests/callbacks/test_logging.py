"""Scalars and histograms read back from the event files, under every combination of loggers."""

import csv
import math

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import boring, images, make_trainer, vision_module

LAYERS = ("net.0", "net.2", "net.6")
SCALARS = ("penalty", "angle_mean", "angle_std", "spread_ratio", "max_abs_cos")


def events(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    return accumulator.Reload()


def fit(tmp_path, callback, logger=None, **options):
    module = vision_module()
    settings = {"max_steps": -1, "max_epochs": 2, **options}
    logger = TensorBoardLogger(tmp_path, name="", version="") if logger is None else logger
    make_trainer(callback, logger=logger, **settings).fit(module, images(12))
    return module


def test_scalars_have_the_documented_names_and_the_values_of_the_report(tmp_path):
    callback = OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=2)
    fit(tmp_path, callback)
    found = events(tmp_path)
    tags = found.Tags()["scalars"]
    assert {f"ortho/{key}" for key in (*SCALARS, "weight")} <= set(tags)
    assert {f"ortho/{key}/{layer}" for key in SCALARS for layer in LAYERS} <= set(tags)
    report = callback.angle_report()
    last = {tag: found.Scalars(tag)[-1].value for tag in tags}
    for layer in report:
        for key, logged in (("mean", "angle_mean"), ("std", "angle_std"), ("spread_ratio", "spread_ratio")):
            assert last[f"ortho/{logged}/{layer['name']}"] == pytest.approx(layer[key], rel=1e-5)
    assert last["ortho/angle_mean"] == pytest.approx(sum(layer["mean"] for layer in report) / 3, rel=1e-5)
    assert last["ortho/max_abs_cos"] == pytest.approx(max(layer["max_abs_cos"] for layer in report), rel=1e-5)
    assert last["ortho/penalty"] == pytest.approx(callback.penalty.item(), rel=1e-5)
    assert last["ortho/weight"] == pytest.approx(0.01)
    per_layer = sum(last[f"ortho/penalty/{layer}"] for layer in LAYERS)
    assert last["ortho/penalty"] == pytest.approx(per_layer, rel=1e-5)
    steps = [event.step for event in found.Scalars("ortho/angle_std")]
    assert steps == [0, 2, 4, 6]


def test_floor_and_active_fraction_stand_beside_the_penalty(tmp_path):
    fit(tmp_path, OrthogonalityCallback(LSH(max_samples=16), weight=0.01, log_every_n_steps=1))
    found = events(tmp_path)
    floor = sum(OF.lsh_penalty_floor(n, k, lambda1=0.0) for n, k in ((16, 6), (16, 4), (4, 5)))
    assert found.Scalars("ortho/penalty_floor")[0].value == pytest.approx(floor, rel=1e-5)
    assert 0 < found.Scalars("ortho/active_fraction/net.0")[0].value < 1


def test_histograms_have_fixed_bins_and_every_pair(tmp_path):
    module = fit(tmp_path, OrthogonalityCallback(None))
    found = events(tmp_path)
    kinds = ("angles", "response_angles")
    assert set(found.Tags()["histograms"]) == {f"ortho/{kind}/{layer}" for kind in kinds for layer in LAYERS}
    series = found.Histograms("ortho/angles/net.0")
    assert [event.step for event in series] == [0, 3, 6]  # before training and after each epoch of 3 steps
    for event in series:
        value = event.histogram_value
        assert value.bucket_limit == pytest.approx([2.0 * i for i in range(1, 91)])
        assert value.num == sum(value.bucket) == 15
    angles = OF.pairwise_angles(module.net[0].weight.detach().flatten(1))
    last = series[-1].histogram_value
    torch.testing.assert_close(torch.tensor(last.bucket), torch.histc(angles, 90, 0, 180), check_dtype=False)
    assert last.sum == pytest.approx(angles.sum().item(), rel=1e-5)
    assert (last.min, last.max) == pytest.approx((angles.min().item(), angles.max().item()), rel=1e-5)


def test_intervals_and_never(tmp_path):
    fit(tmp_path / "a", AngleMonitor(histograms_every_n_epochs=2), max_epochs=4)
    assert len(events(tmp_path / "a").Histograms("ortho/angles/net.0")) == 3
    fit(tmp_path / "b", AngleMonitor(histograms_every_n_epochs=None, every_n_steps=None))
    tags = events(tmp_path / "b").Tags()
    assert not tags["histograms"]
    assert not [tag for tag in tags["scalars"] if tag.startswith("ortho/")]


def test_csv_gets_the_scalars(tmp_path):
    fit(tmp_path, OrthogonalityCallback(log_every_n_steps=1, weight=0.01), CSVLogger(tmp_path, name="", version=""))
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["ortho/angle_std/net.2"]) > 0 for row in rows)
    assert float(rows[0]["ortho/weight"]) == 0.01


def test_no_logger_and_several_loggers(tmp_path):
    fit(tmp_path, OrthogonalityCallback(log_every_n_steps=1), logger=False)
    both = [TensorBoardLogger(tmp_path, name="", version=""), CSVLogger(tmp_path, name="csv", version="")]
    fit(tmp_path, OrthogonalityCallback(log_every_n_steps=1), both)
    assert "ortho/penalty" in events(tmp_path).Tags()["scalars"]
    assert (tmp_path / "csv" / "metrics.csv").exists()


def test_two_callbacks_log_under_their_names(tmp_path):
    first = OrthogonalityCallback(None, layers="net.0", name="first")
    second = OrthogonalityCallback(Gram(), layers="net.6", name="second", weight=1e-4)
    fit(tmp_path, [first, second])
    tags = set(events(tmp_path).Tags()["scalars"])
    assert {"first/angle_std/net.0", "second/angle_std/net.6", "second/penalty"} <= tags
    assert not tags & {"first/angle_std/net.6", "first/penalty"}


def test_other_callbacks_can_monitor_the_angles():
    stopping = EarlyStopping("ortho/angle_std", patience=1, mode="max", min_delta=1e9)
    trainer = make_trainer(
        [OrthogonalityCallback(None, log_every_n_steps=1), stopping], max_steps=-1, max_epochs=9, limit_val_batches=1
    )
    trainer.fit(vision_module(), images(8), images(4))
    assert trainer.current_epoch < 8


def test_a_head_of_50000_classes_is_logged_and_reported_without_a_square_matrix(monkeypatch, tmp_path):
    class Wide(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 50_000)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean()

    largest = []
    arccos = torch.Tensor.arccos_
    monkeypatch.setattr(torch.Tensor, "arccos_", lambda self: largest.append(self.numel()) or arccos(self))
    model = Wide()
    callback = OrthogonalityCallback(LSH(), weight=0.01)
    make_trainer(callback, logger=TensorBoardLogger(tmp_path, name="", version="")).fit(model)
    assert max(largest) <= 2**22
    value = events(tmp_path).Histograms("ortho/angles/layer")[-1].histogram_value
    assert sum(value.bucket) == 3847 * 3846 / 2  # every 13th of 50,000 filters
    assert callback.penalty.isfinite()


@pytest.mark.slow
def test_the_report_of_a_head_of_50000_classes_has_every_pair():
    layer = nn.Linear(32, 50_000, bias=False)
    torch.nn.init.normal_(layer.weight)
    callback = OrthogonalityCallback(None)
    (report,) = callback.angle_report(nn.Sequential(layer))
    assert report["spread_ratio"] == pytest.approx(1.0, abs=0.01)
    assert report["mean"] == pytest.approx(90.0, abs=0.05)
    assert OF.angle_statistics(layer.weight).pairs == 50_000 * 49_999 // 2


class Attracted(boring().BoringModel):
    """A task that turns all filters the same way."""

    pull = 1.0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 8)

    def training_step(self, batch, batch_idx):
        return self.pull * (self.layer.weight - 0.1).square().sum() + 0 * self.layer(batch).sum()


def test_collapse_is_warned_of_once_with_the_weight_as_the_likely_cause():
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 200), batch_size=4)
    callback = OrthogonalityCallback(LSH(probe="exact"), weight=1e-3, log_every_n_steps=1)
    with pytest.warns(UserWarning, match=r"fall together.*weight=0\.001: try a tenth") as caught:
        make_trainer(callback, max_steps=40).fit(Attracted(), data)
    assert sum("fall together" in str(w.message) for w in caught) == 1


def test_a_collapse_of_the_responses_alone_is_told_apart():
    """The filters stay far apart, and yet all say the same of inputs that have one large direction in common."""

    class Shared(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 8)
            with torch.no_grad():
                self.layer.weight.zero_()[:, :8] = torch.eye(8)

        def training_step(self, batch, batch_idx):
            x = batch.clone()
            x[:, -1] = 50.0
            return (self.layer.weight[:, -1] - 0.5).square().sum() + 0 * self.layer(x).sum()

    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 4000), batch_size=100)
    callback = OrthogonalityCallback(LSH(), weight=1e-3, log_every_n_steps=1)
    with pytest.warns(UserWarning, match=r"filters' responses fall together.*weight=0\.001: try a tenth") as caught:
        make_trainer(callback, max_steps=40).fit(Shared(), data)
    assert sum("fall together" in str(w.message) for w in caught) == 1


@pytest.mark.parametrize(("weight", "pull"), [(1e-3, 0.0), (0.0, 1.0)])
def test_no_collapse_is_reported_without_one_or_without_a_weight(weight, pull, recwarn):
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 200), batch_size=4)
    callback = OrthogonalityCallback(LSH(probe="exact"), weight=weight, log_every_n_steps=1)
    model = Attracted()
    model.pull = pull
    make_trainer(callback, max_steps=40).fit(model, data)
    assert not [w for w in recwarn if "fall together" in str(w.message)]


def test_infinite_training_without_schedule():
    callback = OrthogonalityCallback(weight=1e-4)
    make_trainer(callback, max_steps=-1, max_epochs=-1, max_time={"seconds": 1}).fit(boring().BoringModel())
    assert not math.isnan(callback.penalty.item())
