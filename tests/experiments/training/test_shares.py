"""The figure of GradientShare shows the ratios of the gradients that a training logged."""

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from ortho_lightning import LSH, GradientShare, OrthogonalityCallback
from ortho_lightning.errors import DataError
from ortho_lightning.experiments.training import shares
from tests.callbacks.helpers import make_trainer


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return (self.net(x) - y).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(folder, log_every):
    share = GradientShare(0.2, every_n_steps=2, smoothing=0.0)
    callback = OrthogonalityCallback(LSH(max_samples=32), weight=share, log_every_n_steps=log_every)
    logger = TensorBoardLogger(folder, name="", version="")
    random = torch.Generator().manual_seed(0)
    batches = [tuple(torch.randn(40, width, generator=random) for width in (6, 4)) for _ in range(24)]
    torch.manual_seed(0)
    trainer = make_trainer(callback, logger=logger, max_steps=24, log_every_n_steps=1)
    trainer.fit(Regression(), DataLoader(batches, batch_size=None))
    OmegaConf.save({"regularizer": {"weight": {"share": 0.2}}}, folder / "config.yaml")


def test_ratios_are_read_before_and_after_each_correction(tmp_path, capsys):
    train(tmp_path, 1)
    found = shares.read(tmp_path)
    assert found.steps == (0, 1, *range(2, 24, 2))
    assert found.share == 0.2
    # without smoothing the weight is set to the share at once, within the bound on its rise
    assert found.kept[-1] == pytest.approx(0.2, rel=1e-4)
    assert found.found[0] == found.kept[0]
    assert found.found[3] != pytest.approx(0.2, rel=1e-4)
    worst = max(max(ratio / 0.2, 0.2 / ratio) for ratio in found.found[9:])
    assert found.off == pytest.approx(worst)
    shares.main([str(tmp_path), "--out", str(tmp_path / "shares.png")])
    assert (tmp_path / "shares.png").read_bytes().startswith(b"\x89PNG")
    assert f"{worst:.2f} times" in capsys.readouterr().out


def test_runs_that_do_not_tell_the_ratios_are_named(tmp_path):
    with pytest.raises(DataError, match="no run of"):
        shares.read(tmp_path)
    train(tmp_path, 7)
    with pytest.raises(DataError, match="log_every_n_steps=1"):
        shares.read(tmp_path)
