"""A training that starts from the weights of another run."""

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.training.pretrained import load_pretrained
from tests.experiments.training.small import Small


@pytest.fixture
def checkpoint(tmp_path):
    module = Small(classes=3)
    trainer = Trainer(max_epochs=1, logger=False, default_root_dir=tmp_path, enable_progress_bar=False)
    trainer.fit(module, module.data())
    path = tmp_path / "first.ckpt"
    trainer.save_checkpoint(path)
    return path, module


@pytest.mark.parametrize("classes", [3, 5])
def test_all_but_the_last_layer_comes_from_the_checkpoint_statistics_too(checkpoint, classes):
    path, trained = checkpoint
    module = Small(classes)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    load_pretrained(module, str(path), anew="net.head")
    for name, value in module.state_dict().items():
        expected = before if name.startswith("net.head.") else trained.state_dict()
        assert torch.equal(value, expected[name]), name
    assert trained.net["norm"].num_batches_tracked > 0


def test_what_does_not_fit_is_named_before_any_weight_changes(checkpoint, tmp_path):
    path, _ = checkpoint
    for module, named in ((Small(3, width=9), "net.body.weight"), (nn.Linear(2, 2), "weight")):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        with pytest.raises(ConfigurationError, match=f"do not fit this network, such as .*{named}"):
            load_pretrained(module, str(path), anew="net.head")
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    with pytest.raises(ConfigurationError, match="there is no such file"):
        load_pretrained(Small(3), str(tmp_path / "none.ckpt"), anew="net.head")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ConfigurationError, match="its weights cannot be read"):
        load_pretrained(Small(3), str(tmp_path / "text.ckpt"), anew="net.head")


def test_weights_of_a_constraint_are_rejected_with_the_remedy(tmp_path):
    module = Small(3)
    torch.nn.utils.parametrizations.orthogonal(module.net["body"])
    torch.save({"state_dict": module.state_dict()}, tmp_path / "hard.ckpt")
    with pytest.raises(ConfigurationError, match=r"remove\(\) after training"):
        load_pretrained(Small(3), str(tmp_path / "hard.ckpt"), anew="net.head")
