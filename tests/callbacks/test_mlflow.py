"""MLflow with the real package and a SQLite store: what a training logs is read back by MLflow's own client."""

import importlib
import json
import re
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.callbacks.monitoring import loggers
from ortho_lightning.callbacks.monitoring.adapters import Histogram, Table, adapter_for
from ortho_lightning.regularizers import LSH
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module

LAYERS = ("net.0", "net.2", "net.6")


@pytest.fixture(scope="module", autouse=True)
def mlflow():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The folder of the one store: making its tables takes longer than a training."""
    return tmp_path_factory.mktemp("store")


def logger_of(folder, package="pytorch_lightning"):
    made = importlib.import_module(f"{package}.loggers").MLFlowLogger
    return made("ortho", tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=f"{folder}/artifacts")


def train(folder, package="pytorch_lightning"):
    module = vision_module(package)
    logger = logger_of(folder, package)
    monitor = AngleMonitor(every_n_steps=1, spectra_every_n_steps=3)
    callback = OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=1, monitor=monitor)
    trainer = make_trainer(callback, package, logger=logger, max_steps=-1, max_epochs=2, log_every_n_steps=1)
    trainer.fit(module, images(12))
    loggers.log_text(trainer, "config", "```yaml\na: 1\n```")
    loggers.log_hyperparameters(trainer, {"regularizer": "lsh", "weight": 0.01}, {}, ())
    return module, callback, Stored(logger)


class Stored:
    """What MLflow's client reads of a run."""

    def __init__(self, logger):
        self.client, self.run_id = importlib.import_module("mlflow").MlflowClient(logger._tracking_uri), logger.run_id
        self.run = self.client.get_run(self.run_id)

    def files(self, folder=None):
        for entry in self.client.list_artifacts(self.run_id, folder):
            yield from self.files(entry.path) if entry.is_dir else [entry.path]

    def content(self, path):
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.client.download_artifacts(self.run_id, path, folder)).read_bytes()

    def scalars(self, tag):
        return [(found.step, found.value) for found in self.client.get_metric_history(self.run_id, tag)]

    def pictures(self, tag):
        """The files of a figure by step, as MLflow's page looks for them."""
        name = rf"images/{re.escape(tag.replace('/', '~'))}\+step\+(\d+)\+timestamp\+\d+\+[0-9a-f-]+\.png"
        found = {
            int(match[1]): match[0] for match in (re.fullmatch(name, path) for path in self.files("images")) if match
        }
        return dict(sorted(found.items()))


@pytest.fixture(scope="module")
def trained(store):
    return train(store)


def test_scalars_arrive_at_their_steps(trained):
    _, callback, stored = trained
    assert [step for step, _ in stored.scalars("ortho/angle_std/net.2")] == [0, 1, 2, 3, 4, 5, 6]
    for row in callback.angle_report():
        for key, tag in (("std", "angle_std"), ("effective_rank", "effective_rank")):
            assert stored.scalars(f"ortho/{tag}/{row['name']}")[-1][1] == pytest.approx(row[key], rel=1e-5)


def test_histograms_are_numbers_and_images_of_every_epoch(trained):
    module, _, stored = trained
    angles = OF.pairwise_angles(module.net[0].weight.detach().flatten(1))
    last = json.loads(stored.content("ortho/angles/net.0/6.json"))
    assert last["edges"] == pytest.approx([2.0 * i for i in range(91)])
    assert last["counts"] == torch.histc(angles, 90, 0, 180).tolist()
    assert last["total"] == pytest.approx(angles.sum().item(), rel=1e-5)
    assert (last["min"], last["max"]) == pytest.approx((angles.min().item(), angles.max().item()), rel=1e-5)
    files = set(stored.files())
    for layer in LAYERS:
        for kind, steps in (("angles", [0, 3, 6]), ("response_angles", [3, 6])):
            assert {f"ortho/{kind}/{layer}/{step}.json" for step in steps} <= files
            assert list(stored.pictures(f"ortho/{kind}/{layer}")) == steps


def test_figures_arrive_before_between_and_after_training(trained, tmp_path):
    _, _, stored = trained
    for tag, size in (("ortho/filters/net.0", (420, 420)), *((f"ortho/pairs/{layer}", (800, 480)) for layer in LAYERS)):
        found = stored.pictures(tag)
        assert list(found) == [0, 3, 6]
        contents = [stored.content(path) for path in found.values()]
        assert len(set(contents)) == 3
        (tmp_path / "figure.png").write_bytes(contents[-1])
        with Image.open(tmp_path / "figure.png") as image:
            assert image.size == size
            assert np.asarray(image.convert("RGB")).std() > 0


def test_the_layers_are_a_table_that_mlflow_loads(trained):
    _, callback, stored = trained
    pytest.importorskip("pandas")
    table = stored.client.load_table(stored.run.info.experiment_id, "ortho/layers.json", run_ids=[stored.run_id])
    rows = table.to_dict(orient="records")
    for row, expected in zip(rows, callback.angle_report(), strict=True):
        assert (row["layer"], row["groups"], row["k"], row["d"]) == tuple(
            expected[key] for key in ("name", "groups", "k", "d")
        )
        assert row["Welch floor (rms cosine)"] == pytest.approx(expected["welch_floor"])
        assert row["std of random directions"] == pytest.approx(expected["null_std"])


def test_texts_are_artifacts_and_hyperparameters_are_parameters(trained):
    _, _, stored = trained
    assert stored.content("config.md").decode() == "```yaml\na: 1\n```"
    assert stored.run.data.params == {"regularizer": "lsh", "weight": "0.01"}


def test_the_other_package_logs_the_same(trained, store):
    _, _, stored = trained
    _, _, other = train(store, PACKAGES[1])

    def names(of):
        return {re.sub(r"\+timestamp.*", "", path) for path in of.files()} | set(of.run.data.metrics)

    assert names(other) == names(stored)


def test_a_table_and_a_text_replace_those_of_the_same_name(store):
    logger = logger_of(store)
    adapter = adapter_for(logger)
    for number in (1, None):
        adapter.table("ortho/layers", Table({"layer": "{}", "k": "{}"}, [["net.0", number]]), 0)
        adapter.text("note", f"number {number}", 0)
    stored = Stored(logger)
    expected = {"columns": ["layer", "k"], "data": [["net.0", None]]}
    assert json.loads(stored.content("ortho/layers.json")) == expected
    assert json.loads(stored.run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "ortho/layers.json", "type": "table"}
    ]
    assert stored.content("note.md") == b"number None"


def test_names_lose_the_characters_that_mlflow_rejects_as_those_of_scalars_do(store):
    logger = logger_of(store)
    adapter, histogram = adapter_for(logger), Histogram([0.0, 1.0, 2.0], [3, 4], 0.1, 1.9, 7.0, 9.0)
    adapter.histogram("ortho/angles/attn:q[0]", histogram, 5)
    with pytest.warns(RuntimeWarning, match="special characters"):
        logger.log_metrics({"ortho/angles/attn:q[0]": 1.0}, 5)
    stored = Stored(logger)
    assert json.loads(stored.content("ortho/angles/attnq0/5.json")) == asdict(histogram)
    assert list(stored.pictures("ortho/angles/attnq0")) == [5]
    assert stored.scalars("ortho/angles/attnq0") == [(5, 1.0)]
