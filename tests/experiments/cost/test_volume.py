"""The size of a long training's event files, projected from a short one's."""

import re

import pytest
import yaml
from pytorch_lightning.loggers import TensorBoardLogger

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import DataError
from ortho_lightning.experiments.cost import volume
from ortho_lightning.files import write_json
from tests.callbacks.helpers import images, make_trainer, vision_module


def train(folder, epochs):
    callback = OrthogonalityCallback(weight=0.01, log_every_n_steps=2)
    logger = TensorBoardLogger(folder, name="", version="")
    make_trainer(callback, logger=logger, max_steps=-1, max_epochs=epochs).fit(vision_module(), images(32))


def test_a_short_run_tells_how_large_the_logs_of_a_long_one_will_be(tmp_path, capsys, monkeypatch):
    train(tmp_path / "short", 2)
    train(tmp_path / "long", 8)
    short, long = (volume.read_series(tmp_path / name) for name in ("short", "long"))
    files = (tmp_path / "short").glob("events.*")
    assert sum(series.size for series in short.values()) == sum(file.stat().st_size for file in files)
    projected = volume.project(short, (2, 16, 2), (8, 64, 2))
    for kind in ("scalars", "histograms", "pictures"):
        actual = sum(series.size for series in long.values() if series.kind == kind)
        assert projected[kind] == pytest.approx(actual, rel=0.1), kind
    (tmp_path / "short" / "config.yaml").write_text(
        yaml.safe_dump({"trainer": {"max_epochs": 2}, "callbacks": {"orthogonality": {"log_every_n_steps": 2}}})
    )
    write_json(tmp_path / "short" / "results.json", {"steps": 16})
    arguments = ["--epochs", "8", "--steps-per-epoch", "8", "--log-every-n-steps", "2"]
    monkeypatch.setattr("sys.argv", ["volume", str(tmp_path / "short"), *arguments])
    volume.main()
    assert re.search(rf"\| all +\| [\d.]+ +\| {projected.total() / 1e6:.2f} +\|", capsys.readouterr().out)


def test_a_folder_without_event_files_is_rejected(tmp_path):
    with pytest.raises(DataError, match="no event files"):
        volume.read_series(tmp_path)
