"""Adapters of a user's own, as docs/loggers.md writes them, and which adapter a logger gets."""

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import DummyLogger

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning.callbacks.monitoring.adapters import Adapter, adapter_for, register
from ortho_lightning.callbacks.monitoring.adapters.tensorboard import TensorBoard
from ortho_lightning.errors import ArgumentTypeError, ConfigurationError
from tests.callbacks.helpers import images, make_trainer, vision_module
from tests.pages import examples, run, run_page
from tests.readers import Notebook

LAYERS = ("net.0", "net.2", "net.6")


def test_the_adapter_of_the_docs_takes_what_they_say():
    run(examples("loggers.md")[2], {"Notebook": Notebook})
    notebook = Notebook()
    make_trainer(OrthogonalityCallback(None), logger=notebook).fit(vision_module(), images(4))
    first = {}
    for tag, step, page in notebook.pages:
        first.setdefault(tag, (step, page))
    step, histogram = first["ortho/angles/net.0"]
    assert step == 0
    assert [edges for *edges, _ in histogram] == [pytest.approx([2.0 * i, 2.0 * i + 2]) for i in range(90)]
    assert sum(count for *_, count in histogram) == 15
    step, figure = first["ortho/pairs/net.2"]
    assert (step, figure.shape, figure.dtype) == (0, (480, 800, 3), np.uint8)
    heading, *rows = first["ortho/layers"][1]
    assert (heading[:4], [row[:4] for row in rows][1]) == (["layer", "groups", "k", "d"], ["net.2", 2, 4, 27])
    assert "ortho/angle_std" in notebook.scalars[0][1]


def test_the_loggers_of_the_docs_work_at_once(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_SILENT", "true"), ("MLFLOW_DISABLE_TELEMETRY", "true")):
        monkeypatch.setenv(name, value)
    found = run_page("loggers.md", {"module": vision_module(), "data": images(4), "Notebook": Notebook})
    wandb.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/files/media/images/ortho/pairs/net.0*.png"))
    assert "ortho/angle_std" in found["loggers"][1].experiment.get_run(found["loggers"][1].run_id).data.metrics
    assert list(tmp_path.glob("logs/lightning_logs/version_*/metrics.csv"))
    run_id = found["loggers"][1].run_id
    assert list(found["table"]["layer"]) == list(LAYERS)
    assert (tmp_path / "mlartifacts" / run_id / "artifacts" / "ortho" / "layers.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {"wandb", "mlflow.db", "mlartifacts", "logs", "filters"}


def test_each_logger_gets_the_adapter_of_its_kind(tmp_path):
    assert type(adapter_for(TensorBoardLogger(tmp_path))) is TensorBoard
    assert type(adapter_for(CSVLogger(tmp_path))) is Adapter
    assert type(adapter_for(DummyLogger())) is Adapter


def test_ones_own_comes_before_the_packages_and_the_latest_before_all(tmp_path):
    class Mine(TensorBoardLogger):
        pass

    def adapter():
        class ForMine(TensorBoard):
            @staticmethod
            def serves(logger):
                return isinstance(logger, Mine)

        return register(ForMine)

    first, second = adapter(), adapter()  # a cell of a notebook that ran twice
    assert type(adapter_for(Mine(tmp_path))) is second is not first
    assert type(adapter_for(TensorBoardLogger(tmp_path))) is TensorBoard


def test_what_an_adapter_does_not_take_is_left_out():
    class Plain(Notebook):
        pass

    @register
    class OnlyTexts(Adapter):
        @staticmethod
        def serves(logger):
            return isinstance(logger, Plain)

        def text(self, tag, markdown, step):
            self.logger.pages.append((tag, markdown))

    plain = Plain()
    make_trainer(AngleMonitor(), logger=plain).fit(vision_module(), images(4))
    ((tag, markdown),) = plain.pages  # the table, as a text; no histogram, no figure
    assert tag == "ortho/layers"
    assert markdown.splitlines()[0].split("|")[1].strip() == "layer"


def test_a_class_that_cannot_be_an_adapter_is_rejected():
    class Greedy(Adapter):
        pass

    with pytest.raises(ConfigurationError, match=r"register\(Greedy\): it needs a static method serves"):
        register(Greedy)

    class OfAnInstance(Adapter):
        def serves(self, logger):
            return False

    with pytest.raises(ConfigurationError, match=r"register\(OfAnInstance\).*@staticmethod"):
        register(OfAnInstance)

    class WithoutPicture(Adapter):
        takes_pictures = True

        @classmethod
        def serves(cls, logger):
            return False

    with pytest.raises(ConfigurationError, match=r"register\(WithoutPicture\).*picture\(tag, pixels, step\)"):
        register(WithoutPicture)
    with pytest.raises(ArgumentTypeError, match="must be a subclass of Adapter"):
        register(Notebook)


def test_an_adapter_that_fails_with_a_figure_is_named():
    class Torn(Notebook):
        pass

    @register
    class TornAdapter(Adapter):
        takes_pictures = True

        @staticmethod
        def serves(logger):
            return isinstance(logger, Torn)

        def picture(self, tag, pixels, step):
            raise OSError("no paper")

    with pytest.warns(UserWarning, match=r"TornAdapter\.picture raised OSError\('no paper'\)"):
        make_trainer(AngleMonitor(), logger=Torn()).fit(vision_module(), images(4))
