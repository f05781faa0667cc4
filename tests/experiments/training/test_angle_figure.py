"""The figure of a run's angles and the records of its layers: both kinds, before and after training."""

import matplotlib.figure
import pytest
import torch
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.experiments.training.angle_figure import AngleSnapshot, layer_records, save_angle_figure
from tests.callbacks.helpers import images, make_trainer, vision_module

LAYERS = ("net.0", "net.2", "net.6")


def fitted(monitor="auto"):
    callback = OrthogonalityCallback(None, log_every_n_steps=1, monitor=monitor)
    module = vision_module()
    before = AngleSnapshot.of(callback, module)
    make_trainer(callback, max_steps=3).fit(module, images(12))
    return callback, before, AngleSnapshot.of(callback, module)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved, still with their axes."""
    figures, save = [], matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure,
        "savefig",
        lambda self, *args, **more: figures.append(self) or save(self, *args, **more),
    )
    return figures


def visible(figure):
    return [axis for axis in figure.axes if axis.get_visible()]


def labels(axis):
    return [patch.get_label() for patch in axis.patches]


def test_a_snapshot_holds_both_kinds_and_the_first_responses_are_those_of_the_first_step():
    callback, before, after = fitted()
    assert before.responses == {}
    assert set(after.angles) == set(after.responses) == set(LAYERS)
    first = callback.monitor.responses_before
    report = {row["name"]: row for row in callback.angle_report()}
    for name in LAYERS:
        assert first[name].std == report[name]["response_std_before"]
        assert after.responses[name].std == report[name]["response_std"]
        assert first[name].n == report[name]["response_samples"]


def test_records_hold_the_histograms_of_both_kinds():
    callback, _, after = fitted()
    for record in layer_records(callback.angle_report(), after):
        pairs = record.groups * record.k * (record.k - 1) // 2
        assert sum(record.counts) == sum(record.response_counts) == pairs
        assert record.response_counts == tuple(callback.monitor.responses[record.name].counts.tolist())
        assert "response_std_before" not in record.values  # a resumed run has another one


def test_records_are_of_layers_with_filters_only():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5), nn.ReLU()))
    callback = OrthogonalityCallback(None, ["0", "1"])
    report = callback.angle_report(model)
    assert [row["k"] for row in report] == [4, None]
    assert [record.name for record in layer_records(report, AngleSnapshot.of(callback, model))] == ["0"]


@pytest.mark.parametrize("monitor", [None, AngleMonitor(kinds=["filter"])])
def test_records_without_response_angles_have_none(monitor):
    callback, _, after = fitted(monitor)
    assert all(record.response_counts == () for record in layer_records(callback.angle_report(), after))


def test_the_figure_has_both_kinds_of_each_layer_before_and_after(tmp_path, drawn):
    callback, before, after = fitted()
    before = AngleSnapshot(before.angles, callback.monitor.responses_before)
    save_angle_figure(tmp_path / "angles.png", before, after)
    assert (tmp_path / "angles.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["angles.png"]
    axes = visible(drawn[0])
    assert len(axes) == 2 * len(LAYERS)
    filters, responses = axes[: len(LAYERS)], axes[len(LAYERS) :]
    for name, above, below in zip(LAYERS, filters, responses, strict=True):
        assert above.get_title().startswith(name)
        assert labels(above)[:2] == labels(below)[:2] == ["before training", "after training"]
        assert f"{before.angles[name].std:.1f} → {after.angles[name].std:.1f}" in above.get_xlabel()
        assert f"{before.responses[name].std:.1f} → {after.responses[name].std:.1f}" in below.get_xlabel()


def test_what_was_not_measured_is_left_out(tmp_path, drawn):
    _, before, after = fitted()
    save_angle_figure(tmp_path / "resumed.png", before, after)  # its responses before training are unknown
    for below in visible(drawn[0])[len(LAYERS) :]:
        assert "after training" in labels(below)
        assert "before training" not in labels(below)
        assert "→" not in below.get_xlabel()
    save_angle_figure(tmp_path / "filters.png", before, AngleSnapshot(after.angles))
    assert len(visible(drawn[1])) == len(LAYERS)
    some = AngleSnapshot(after.angles, {"net.0": after.responses["net.0"]})
    save_angle_figure(tmp_path / "some.png", before, some)
    texts = [[text.get_text() for text in axis.texts] for axis in visible(drawn[2])[len(LAYERS) :]]
    assert texts == [[], ["response angles: not measured"], ["response angles: not measured"]]


def test_without_pairs_there_is_no_figure(tmp_path):
    one = AngleSnapshot({"a": OF.angle_statistics(torch.randn(1, 4))})
    save_angle_figure(tmp_path / "angles.png", one, one)
    assert not list(tmp_path.iterdir())
