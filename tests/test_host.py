"""Logging waits for the device a fixed number of times, however many layers there are."""

import pytest
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from ortho_lightning import LSH, Gram, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.callbacks.penalty import scalars, step_penalty
from ortho_lightning.functional import _pairs
from ortho_lightning.functional.angles import angle_statistics_of
from ortho_lightning.functional.responses import response_statistics_of
from ortho_lightning.host import on_host
from tests.callbacks.helpers import make_trainer


class Deep(LightningModule):
    def __init__(self, layers):
        super().__init__()
        self.net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(layers)))

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Waits:
    """Counts the tensors that are read without having been brought to the host together, and the times they are."""

    def __init__(self, monkeypatch):
        self.together, self.alone, self.brought = 0, 0, {}
        for module in (scalars, step_penalty, _pairs):
            monkeypatch.setattr(module, "on_host", self.bring)
        for name in ("item", "tolist", "__float__", "__bool__", "__int__"):
            monkeypatch.setattr(torch.Tensor, name, self.counted(getattr(torch.Tensor, name)))

    def bring(self, tensors):
        self.together += 1
        found = on_host(tensors)
        self.brought.update({id(each): each for each in found})
        return found

    def counted(self, read):
        def reading(tensor, *args):
            self.alone += id(tensor) not in self.brought
            return read(tensor, *args)

        return reading


@pytest.mark.parametrize("regularizer", [LSH(), Gram()])
def test_the_number_of_waits_does_not_depend_on_the_number_of_layers(regularizer, tmp_path, monkeypatch):
    def run(layers):
        with monkeypatch.context() as patch:
            waits = Waits(patch)
            logger = CSVLogger(tmp_path, version=f"{layers}")
            callback = OrthogonalityCallback(regularizer, weight=0.1, log_every_n_steps=1)
            data = [torch.randn(20, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]
            trainer = make_trainer(callback, logger=logger, max_steps=4, log_every_n_steps=1)
            trainer.fit(Deep(layers), DataLoader(data, batch_size=None))
            assert len(waits.brought) > 4 * layers
            return waits.together, waits.alone

    OF.null_std(6)  # is kept once it is known
    assert run(2) == run(9)


def test_tensors_come_back_as_they_were():
    tensors = [torch.arange(4).reshape(2, 2), torch.tensor(0.5), torch.zeros(0), torch.ones(3, requires_grad=True)]
    for found, expected in zip(on_host(tensors), tensors, strict=True):
        assert found.dtype == expected.dtype
        assert not found.requires_grad
        torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0)
    assert on_host([]) == []


def test_statistics_of_several_are_those_of_each():
    values = [torch.randn(2, 5, 7), torch.randn(9, 3), torch.zeros(1, 4)]
    for several, one in (
        (angle_statistics_of, OF.angle_statistics),
        (response_statistics_of, OF.response_statistics),
    ):
        for found, each in zip(several(values), values, strict=True):
            assert repr(found) == repr(one(each))
