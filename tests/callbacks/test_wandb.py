"""Weights & Biases, offline, with the real package: what a training logs is read back from the run's folder."""

import importlib
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring import loggers
from ortho_lightning.callbacks.monitoring.adapters import Table
from ortho_lightning.regularizers import LSH
from tests.callbacks import offline_wandb
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module

wandb = pytest.importorskip("wandb")

LAYERS = ("net.0", "net.2", "net.6")
TEXT = "```yaml\na: <b>\n```"


@pytest.fixture(autouse=True)
def _nothing_leaves_the_machine(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    yield
    wandb.finish()


def logger_of(package, folder):

    settings = wandb.Settings(console="off", disable_git=True, x_disable_stats=True, x_disable_meta=True)
    made = importlib.import_module(f"{package}.loggers").WandbLogger
    return made(save_dir=folder, project="ortho", offline=True, settings=settings)


def train(package, folder):
    module = vision_module(package)
    logger = logger_of(package, folder)
    monitor = AngleMonitor(every_n_steps=1, spectra_every_n_steps=3)
    callback = OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=1, monitor=monitor)
    trainer = make_trainer(callback, package, logger=logger, max_steps=-1, max_epochs=2, log_every_n_steps=1)
    trainer.fit(module, images(12))
    loggers.log_text(trainer, "config", TEXT)
    loggers.log_table(trainer, "partly", Table({"name": "{}", "number": "{}"}, [["a", None], ["b", 2]]))
    loggers.log_hyperparameters(trainer, {"regularizer": "lsh", "weight": 0.01}, {}, ())
    logger.experiment.finish()
    return module, callback


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A module, its callback, the folder and the rows of the run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        folder = tmp_path_factory.mktemp("run")
        module, callback = train("pytorch_lightning", folder)
    return module, callback, folder, offline_wandb.history(folder)


def series(rows, tag):
    return [(row["trainer/global_step"], row[tag]) for row in rows if tag in row]


def file_of(folder, value):
    return offline_wandb.run_folder(folder) / "files" / value["path"]


def test_scalars_arrive_at_their_steps(trained):
    _, callback, _, rows = trained
    assert [step for step, _ in series(rows, "ortho/angle_std/net.2")] == [0, 1, 2, 3, 4, 5, 6]
    for row in callback.angle_report():
        for key, tag in (("std", "angle_std"), ("effective_rank", "effective_rank")):
            assert series(rows, f"ortho/{tag}/{row['name']}")[-1][1] == pytest.approx(row[key], rel=1e-5)


def test_histograms_have_fixed_bins_and_every_pair(trained):
    module, _, _, rows = trained
    angles = OF.pairwise_angles(module.net[0].weight.detach().flatten(1))
    found = series(rows, "ortho/angles/net.0")
    assert [step for step, _ in found] == [0, 3, 6]
    last = found[-1][1]
    assert last["_type"] == "histogram"
    assert last["bins"] == pytest.approx([2.0 * i for i in range(91)])
    assert last["values"] == torch.histc(angles, 90, 0, 180).tolist()
    assert all(series(rows, f"ortho/{kind}/{layer}") for kind in ("angles", "response_angles") for layer in LAYERS)


def test_figures_arrive_before_between_and_after_training(trained):
    _, _, folder, rows = trained
    for tag, size in (("ortho/filters/net.0", (420, 420)), *((f"ortho/pairs/{layer}", (800, 480)) for layer in LAYERS)):
        found = series(rows, tag)
        assert [step for step, _ in found] == [0, 3, 6]
        for _, value in found:
            assert value["_type"] == "image-file"
            with Image.open(file_of(folder, value)) as image:
                assert image.size == size
                assert np.asarray(image.convert("RGB")).std() > 0
    assert len({value["sha256"] for _, value in series(rows, "ortho/pairs/net.0")}) == 3


def test_the_layers_are_a_table_of_numbers(trained):
    _, callback, folder, rows = trained
    ((step, value),) = series(rows, "ortho/layers")
    assert (step, value["_type"]) == (0, "table-file")
    table = json.loads(file_of(folder, value).read_text())
    cells = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    for row, expected in zip(cells, callback.angle_report(), strict=True):
        assert (row["layer"], row["groups"], row["k"], row["d"]) == tuple(
            expected[key] for key in ("name", "groups", "k", "d")
        )
        assert row["Welch floor (rms cosine)"] == pytest.approx(expected["welch_floor"])
        assert row["std of random directions"] == pytest.approx(expected["null_std"])


def test_a_table_may_have_cells_that_are_not_known(trained):
    _, _, folder, rows = trained
    ((_, value),) = series(rows, "partly")
    assert json.loads(file_of(folder, value).read_text())["data"] == [["a", None], ["b", 2]]


def test_a_text_is_a_page_that_shows_it_as_it_stands(trained):
    _, _, folder, rows = trained
    ((_, value),) = series(rows, "config")
    assert value["_type"] == "html-file"
    page = file_of(folder, value).read_text()
    assert page == "<pre>```yaml\na: &lt;b&gt;\n```</pre>"
    assert "http" not in page


def test_hyperparameters_are_the_configuration(trained):
    _, _, folder, _ = trained
    config = offline_wandb.config(folder)
    assert (config["regularizer"], config["weight"]) == ("lsh", 0.01)


def test_the_other_package_logs_the_same(trained, tmp_path):
    _, _, _, rows = trained
    train(PACKAGES[1], tmp_path)
    found = offline_wandb.history(tmp_path)

    def logged(rows):
        return sorted(
            (tag, row["trainer/global_step"]) for row in rows for tag in row if re.match("ortho/|config", tag)
        )

    assert logged(found) == logged(rows)


def test_beside_another_logger_each_gets_everything(tmp_path):
    from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    several = [
        TensorBoardLogger(tmp_path, name="", version=""),
        logger_of("pytorch_lightning", tmp_path),
        CSVLogger(tmp_path, name="csv", version=""),
    ]
    make_trainer(OrthogonalityCallback(None), logger=several).fit(vision_module(), images(4))
    wandb.finish()
    rows = offline_wandb.history(tmp_path)
    found = EventAccumulator(str(tmp_path)).Reload().Tags()
    for tag in (*found["histograms"], *found["images"]):
        assert series(rows, tag), tag
    assert {f"ortho/pairs/{layer}" for layer in LAYERS} <= set(found["images"])
    assert "ortho/angle_std" in (tmp_path / "csv" / "metrics.csv").read_text()
