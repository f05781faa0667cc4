"""Ranks, singular values and dead filters as scalars, in the report and in the charts: only when switched on."""

import math
import re
from dataclasses import asdict

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import Gram
from tests.callbacks.helpers import images, make_trainer, vision_module

LAYERS = ("net.0", "net.2", "net.6")
SPECTRA = ("stable_rank", "effective_rank", "largest_singular_value", "smallest_singular_value", "dead_filters")


def fit(tmp_path, callback, **options):
    module = vision_module()
    with torch.no_grad():
        module.net[2].weight[1] = 0
    module.net[2].weight.requires_grad_(False)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    make_trainer(callback, logger=logger, **{"max_steps": -1, "max_epochs": 2, **options}).fit(module, images(12))
    return module, EventAccumulator(str(tmp_path), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def steps(found, tag):
    return [event.step for event in found.Scalars(tag)]


def test_scalars_are_those_of_the_layers_and_of_the_model(tmp_path):
    module, found = fit(tmp_path, AngleMonitor(spectra_every_n_steps=2))
    last = {tag: found.Scalars(tag)[-1].value for tag in found.Tags()["scalars"]}
    kernels = {
        "net.0": module.net[0].weight.flatten(1)[None],
        "net.2": module.net[2].weight.reshape(2, 4, -1),
        "net.6": module.net[6].weight[None],
    }
    expected = {}
    for layer, kernel in kernels.items():
        expected[layer] = values = torch.cat([torch.linalg.svdvals(group) for group in kernel.detach().double()])
        assert last[f"ortho/largest_singular_value/{layer}"] == pytest.approx(values.max().item(), rel=1e-5)
        assert last[f"ortho/smallest_singular_value/{layer}"] == pytest.approx(values.min().item(), rel=1e-5, abs=1e-6)
        stable = (values.square().sum() / values.max().square()).item()
        assert last[f"ortho/stable_rank/{layer}"] == pytest.approx(stable, rel=1e-5)
        shares = values[values > 0] / values.sum()
        entropy = -(shares * shares.log()).sum().item()
        assert last[f"ortho/effective_rank/{layer}"] == pytest.approx(math.exp(entropy), rel=1e-4)
        assert last[f"ortho/dead_filters/{layer}"] == (layer == "net.2")
    assert last["ortho/dead_filters"] == 1
    assert last["ortho/largest_singular_value"] == pytest.approx(max(v.max().item() for v in expected.values()))
    assert last["ortho/smallest_singular_value"] == pytest.approx(0, abs=1e-6)
    for key in ("stable_rank", "effective_rank"):
        assert last[f"ortho/{key}"] == pytest.approx(sum(last[f"ortho/{key}/{layer}"] for layer in LAYERS) / 3)


def test_spectra_have_an_interval_of_their_own(tmp_path):
    _, found = fit(tmp_path, AngleMonitor(every_n_steps=4, spectra_every_n_steps=3))
    assert steps(found, "ortho/angle_std") == [0, 4, 6]
    assert steps(found, "ortho/stable_rank/net.0") == [0, 3, 6]  # the last after training, as of the angles
    monitor = AngleMonitor(every_n_steps=None, spectra_every_n_steps=4, figures=None)
    _, alone = fit(tmp_path / "alone", monitor)
    assert steps(alone, "ortho/dead_filters") == [0, 4, 6]
    assert "ortho/angle_std" not in alone.Tags()["scalars"]


def test_nothing_of_a_spectrum_is_measured_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(OF, "spectrum_statistics", lambda kernel: 1 / 0)
    monitor = AngleMonitor()
    _, found = fit(tmp_path, monitor)
    assert not [tag for tag in found.Tags()["scalars"] if re.search("rank|singular|dead", tag)]
    assert not set(SPECTRA) & set(monitor.angle_report()[0])
    assert not set(SPECTRA) & set(OrthogonalityCallback(Gram(), monitor=None).angle_report(vision_module())[0])


def test_the_report_holds_the_spectra_of_now(tmp_path):
    monitor = AngleMonitor(spectra_every_n_steps=2)
    callback = OrthogonalityCallback(Gram(), weight=1e-4, monitor=monitor)
    module, found = fit(tmp_path, callback)
    assert callback.angle_report() == monitor.angle_report()
    for row in callback.angle_report():
        assert row["dead_filters"] == (row["name"] == "net.2")
        assert {key: row[key] for key in SPECTRA} == asdict(monitor.measured_spectra[row["name"]])
        for key in SPECTRA:
            assert row[key] == pytest.approx(found.Scalars(f"ortho/{key}/{row['name']}")[-1].value, rel=1e-5)
    with torch.no_grad():
        module.net[6].weight.zero_()
    assert callback.angle_report()[-1]["dead_filters"] == 5
    assert AngleMonitor(spectra_every_n_steps=1).angle_report(module)[-1]["stable_rank"] == 0


def test_every_chart_finds_its_scalars(tmp_path):
    _, found = fit(tmp_path, AngleMonitor(spectra_every_n_steps=2))
    (event,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout()
    layout.ParseFromString(event.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag for section in layout.category for chart in section.chart}
    tags = found.Tags()["scalars"]
    for key in SPECTRA:
        lines = charts[f"{key.replace('_', ' ')} by layer"]
        assert [tag for line in lines for tag in tags if re.match(line, tag)] == [f"ortho/{key}/{at}" for at in LAYERS]


def test_training_is_bit_identical(tmp_path):
    weights = []
    for number, every in enumerate((None, 1)):
        module, _ = fit(tmp_path / str(number), AngleMonitor(spectra_every_n_steps=every))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in module.parameters()]))
    assert torch.equal(*weights)


def test_weights_that_are_not_finite_do_not_end_the_training(tmp_path):
    class Diverges(OrthogonalityCallback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            with torch.no_grad():
                pl_module.net[6].weight.fill_(math.nan)
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    monitor = AngleMonitor(spectra_every_n_steps=1, kinds=["filter"])
    _, found = fit(tmp_path, Diverges(None, monitor=monitor))
    assert math.isnan(found.Scalars("ortho/stable_rank/net.6")[-1].value)


def test_a_lazy_layer_is_left_out_until_it_has_weights():
    monitor = AngleMonitor(spectra_every_n_steps=1)
    rows = monitor.angle_report(nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 3)))
    assert [row["name"] for row in rows] == ["1"]


@pytest.mark.parametrize("value", [0, 2.5])
def test_a_wrong_interval_is_named(value):
    with pytest.raises(ValueError, match=rf"spectra_every_n_steps={value}: must be an integer of 1 or more"):
        AngleMonitor(spectra_every_n_steps=value)
