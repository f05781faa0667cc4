"""A network that cannot take the data, and the accuracy that needs no network."""

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from ortho_lightning.data import ShapesDataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.training.chance import chance_of
from ortho_lightning.experiments.training.matching import MatchCheck
from ortho_lightning.models import Classifier, PointNet, SmallCNN

SIZES = {"train_clouds": 48, "val_clouds": 24, "test_clouds": 30, "points": 16, "batch_size": 16}


def fitted(net, check=True, classes=12):
    torch.manual_seed(0)
    module = Classifier(net(), classes, lambda parameters: torch.optim.SGD(parameters, 0.1))
    callbacks = [MatchCheck("net", "shapes")] if check else []
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    options |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    Trainer(max_epochs=1, callbacks=callbacks, **options).fit(module, ShapesDataModule(**SIZES))
    return module


def pointnet():
    return PointNet(12, width=4)


def test_a_network_for_images_is_rejected_for_clouds_before_the_first_step():
    with pytest.raises(
        ConfigurationError, match=r"model=net does not take the samples of data=shapes, of shape \(3, 16\)"
    ):
        fitted(lambda: SmallCNN(12, width=4))


def test_too_few_outputs_are_named_with_the_number_of_classes():
    with pytest.raises(ConfigurationError, match=r"has 10 outputs, and data=shapes has 12 classes"):
        fitted(lambda: PointNet(10, width=4), classes=10)


def test_the_check_changes_nothing_in_the_training():
    with_check, without = (fitted(pointnet, check).state_dict() for check in (True, False))
    assert all(torch.equal(value, without[name]) for name, value in with_check.items())


def test_the_mode_of_every_part_is_kept():
    modes = []

    class Seen(PointNet):
        def forward(self, x):
            modes.append((self.training, self.local.training))
            return super().forward(x)

    def partly_frozen():
        net = Seen(12, width=4)
        net.local.eval()
        return net

    fitted(partly_frozen)
    assert modes[:2] == [(False, False), (True, False)]  # the check, the first step


def test_a_module_of_the_users_own_is_not_judged():
    class Own(LightningModule):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"logit": self.scale * x.mean((1, 2))}

        def training_step(self, batch, batch_idx):
            return self(batch[0])["logit"].square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = Trainer(fast_dev_run=True, callbacks=[MatchCheck("own", "shapes")], **options)
    trainer.fit(Own(), train_dataloaders=None, datamodule=ShapesDataModule(**SIZES))
    assert trainer.global_step == 1


@pytest.mark.parametrize("labels", [torch.rand(8), torch.zeros(8, 3, dtype=torch.int64), torch.full((8,), -1)])
def test_labels_that_are_no_class_numbers_have_no_chance(labels):
    data = ShapesDataModule(**SIZES)
    data.setup("fit")
    data.splits["test"] = (torch.zeros(8, 16, 3), labels)
    assert chance_of(data) is None


def test_chance_is_the_share_of_the_most_frequent_class_of_the_test_labels():
    data = ShapesDataModule(**SIZES)
    data.setup("fit")
    labels = torch.tensor([0, 1, 1, 2, 1, 0, 1, 2])
    data.splits["test"] = (torch.zeros(8, 16, 3), labels)
    found = chance_of(data)
    assert (found.accuracy, found.samples) == (0.5, 8)
