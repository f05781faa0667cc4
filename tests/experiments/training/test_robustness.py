import pytest
import torch
from pytorch_lightning import LightningDataModule, LightningModule, Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from ortho_lightning.data import ShapesDataModule
from ortho_lightning.data.module import TensorDataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.training.robustness import robustness

BATCH = 7  # does not divide the 50 test clouds


class Nearest(LightningModule):
    """Names the class whose number is nearest to ten times a cloud's mean distance from the centre, untrained."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        return (x.norm(dim=1).mean(1) * self.scale).round()

    def test_step(self, batch, batch_idx):
        x, y = batch
        found = (self(x) == y).float().mean()
        self.log("test/accuracy", found, batch_size=len(y))

    def validation_step(self, batch, batch_idx):
        self.log("val/mean", batch[0].abs().mean(), batch_size=len(batch[1]))


@pytest.fixture
def data():
    return ShapesDataModule(12, 12, 50, points=40, eval_batch_size=BATCH)


def trainer(tmp_path, **options):
    logger = CSVLogger(tmp_path, name="", version="")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=logger, max_epochs=1, **quiet, **options)


def test_each_figure_is_the_accuracy_on_the_perturbed_test_clouds(tmp_path, data):
    model = Nearest()
    found = robustness(trainer(tmp_path), model, data)
    x, y = data.splits["test"]
    assert list(found) == list(data.perturbations())
    for name, change in data.perturbations().items():
        right = [model(change(x[i : i + 1], torch.tensor([i])).mT).item() == y[i].item() for i in range(50)]
        assert found[name] == pytest.approx(sum(right) / 50), name
    assert len(set(found.values())) > 2


def test_the_same_clouds_are_met_by_every_run(tmp_path, data):
    torch.manual_seed(1)
    first = robustness(trainer(tmp_path), Nearest(), data)
    torch.manual_seed(2)
    other = ShapesDataModule(12, 12, 50, points=40, eval_batch_size=50, seed=9)
    assert robustness(trainer(tmp_path), Nearest(), other) == pytest.approx(first)


def test_nothing_reaches_the_loggers_and_all_is_as_before(tmp_path, data):
    fitted = trainer(tmp_path)
    plain = fitted.test(Nearest(), data, verbose=False)
    fitted.logger.save()
    before, loggers = (tmp_path / "metrics.csv").read_text(), fitted.loggers
    robustness(fitted, Nearest(), data)
    fitted.logger.save()
    assert (tmp_path / "metrics.csv").read_text() == before
    assert fitted.loggers == loggers
    assert fitted.test(Nearest(), data, verbose=False) == plain


def test_loggers_and_clouds_are_as_before_also_after_an_error(tmp_path, data):
    class Broken(Nearest):
        def test_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    stopped = trainer(tmp_path)
    loggers = stopped.loggers
    plain = stopped.test(Nearest(), data, verbose=False)
    with pytest.raises(RuntimeError, match="broken"):
        robustness(stopped, Broken(), data)
    assert stopped.loggers == loggers
    assert stopped.test(Nearest(), data, verbose=False) == plain


def test_validation_is_never_perturbed(tmp_path, data):
    plain = trainer(tmp_path).validate(Nearest(), data, verbose=False)
    with data.perturbed("noise 0.05"):
        assert trainer(tmp_path).validate(Nearest(), data, verbose=False) == plain


def test_data_without_perturbations_have_no_figures(tmp_path):
    class Plain(TensorDataModule):
        pass

    without = Plain(4, 4, 0, augment=False)
    assert robustness(trainer(tmp_path), Nearest(), without) == {}
    assert robustness(trainer(tmp_path), Nearest(), LightningDataModule()) == {}
    with pytest.raises(ConfigurationError, match="no perturbation 'noise': Plain has"), without.perturbed("noise"):
        pass


def test_nothing_tested_is_no_figure(tmp_path, data):
    assert robustness(trainer(tmp_path, limit_test_batches=0), Nearest(), data) == {}
