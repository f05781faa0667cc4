"""scripts/train.py with Weights & Biases and MLflow at once: both keep the whole run in its folder, offline."""

import importlib
import json

import pytest
import yaml

from tests.callbacks import offline_wandb
from tests.integration.commands import TINY, run_script


def test_a_run_is_logged_offline_to_both(tmp_path, monkeypatch):
    for name in ("wandb", "mlflow"):
        pytest.importorskip(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_SERVICE", raising=False)  # that of other tests in this process, which may be closing
    spectra = "callbacks.orthogonality.monitor.spectra_every_n_steps=8"
    run_script("train", *TINY, "regularizer=lsh", spectra, "logger=[wandb,mlflow]", cwd=tmp_path)
    (results,) = tmp_path.rglob("results.json")
    folder, accuracy = results.parent, json.loads(results.read_text())["test_accuracy"]
    config = yaml.safe_load((folder / "config.yaml").read_text())

    rows = offline_wandb.history(folder)
    names = {name for row in rows for name in row}
    assert {"ortho/angles/net.head", "ortho/pairs/net.head", "ortho/layers", "config", "val/accuracy"} <= names
    assert {"ortho/stable_rank/net.head", "ortho/dead_filters"} <= names
    assert [row["test/accuracy"] for row in rows if "test/accuracy" in row] == [pytest.approx(accuracy)]
    assert offline_wandb.config(folder)["regularizer"] == "lsh"

    client = importlib.import_module("mlflow").MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("shapes")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.params["regularizer"]) == ("lsh-seed0", "FINISHED", "lsh")
    assert run.data.metrics["test/accuracy"] == pytest.approx(accuracy)
    assert "ortho/stable_rank/net.head" in run.data.metrics
    (kept,) = (folder / "mlartifacts").glob("*/artifacts")
    text = (kept / "config.md").read_text()
    assert yaml.safe_load(text.removeprefix("```yaml\n").removesuffix("```")) == config
    images = [path.name for path in (kept / "images").glob("*.png")]
    for tag in ("ortho~angles~net.head", "ortho~response_angles~net.head", "ortho~pairs~net.head", "ortho~filters~"):
        assert any(name.startswith(tag) for name in images), tag
    assert json.loads((kept / "ortho" / "layers.json").read_text())["columns"][0] == "layer"
    assert not list(tmp_path.rglob("mlruns"))
