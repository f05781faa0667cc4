"""Every arm of conf/regularizer as its configuration makes it, in a training of a few steps."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import LightningModule

from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.models import Classifier, SmallCNN
from tests.callbacks.helpers import make_trainer

ARMS = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "conf" / "regularizer").glob("*.yaml"))


def configured(arm):
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [f"regularizer={arm}", "experiment=cifar10", "data.root=none"])


def penalties():
    return [arm for arm in ARMS if configured(arm).regularizer.penalty is not None]


def small_training(config, steps):
    torch.manual_seed(0)
    model = Classifier(SmallCNN(width=4), 10, instantiate(config.model.optimizer), schedule="constant")
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(10, (16,), generator=generator)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=8)
    callback = instantiate(config.callbacks.orthogonality)
    make_trainer(callback, max_steps=steps).fit(model, batches)
    return model, callback


@pytest.mark.parametrize("arm", penalties())
def test_an_arm_moves_every_layer_and_stays_finite(arm):
    config = configured(arm)
    moved, callback = small_training(config, steps=2)
    config.regularizer.weight = 0.0
    plain, _ = small_training(config, steps=2)
    assert callback.penalty.isfinite()
    weights = {name: value for name, value in moved.named_parameters() if value.dim() == 4}
    for name, value in plain.named_parameters():
        assert moved.get_parameter(name).isfinite().all()
        if name in weights and name != "net.blocks.0.0.weight":
            assert not torch.equal(moved.get_parameter(name), value), name


def test_parseval_is_the_update_of_its_publication():
    """W <- (1 + b) W - b W W^T W, after a step that moves nothing else."""
    config = configured("parseval")
    config.model.optimizer.weight_decay = 0.0
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4, bias=False)
    before = layer.weight.detach().clone().double()

    class Still(LightningModule):
        def __init__(self):
            super().__init__()
            self.first, self.layer = torch.nn.Identity(), layer

        def training_step(self, batch, batch_idx):
            return 0 * self.layer(batch).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    config.callbacks.orthogonality.exclude = None
    callback = instantiate(config.callbacks.orthogonality)
    make_trainer(callback).fit(Still(), torch.utils.data.DataLoader(torch.ones(2, 6), batch_size=2))
    expected = (1 + 3e-4) * before - 3e-4 * before @ before.T @ before
    torch.testing.assert_close(layer.weight.double(), expected, rtol=1e-5, atol=1e-8)
