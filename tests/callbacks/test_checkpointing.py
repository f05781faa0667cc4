"""Activation checkpointing: what is computed again is no second run of a layer."""

import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import UnsupportedLayerError
from ortho_lightning.regularizers import LSH
from tests.callbacks.helpers import boring, images, make_trainer, vision_module


def test_a_pass_without_gradients_before_a_checkpointed_one_is_no_reentrant_checkpointing():
    class Teaching(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                target = self.layer(batch)
            return (checkpoint(self.layer, batch.requires_grad_(), use_reentrant=False) - target - 1).square().mean()

    callback = OrthogonalityCallback()
    make_trainer(callback).fit(Teaching())
    assert callback.penalty is not None


def test_recomputation_by_checkpointing_is_not_a_second_run():
    def run(checkpointed):
        module = vision_module(inplace=False).double()
        module.net[5].p = 0.0
        if checkpointed:
            net = module.net
            module.loss = lambda batch: (
                net[6](checkpoint(net[:6], batch[0].requires_grad_(), use_reentrant=False)).square().mean()
            )
        data = images()
        data.dataset.tensors = (data.dataset.tensors[0].double(),)
        callback = OrthogonalityCallback(LSH(max_samples=20), weight=0.3)
        make_trainer(callback, precision="64-true").fit(module, data)
        return callback.penalty, module.gradients

    (penalty, expected), (again, found) = run(False), run(True)
    assert torch.equal(penalty, again)
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("manual", [False, True])
def test_reentrant_checkpointing_is_refused_by_name(manual):
    class Reentrant(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            loss = checkpoint(self.layer, batch.requires_grad_(), use_reentrant=True).square().mean()
            if manual:
                self.manual_backward(loss)
            return loss

    model = Reentrant()
    with pytest.raises(UnsupportedLayerError, match=r"'layer'.*use_reentrant=False"):
        make_trainer(OrthogonalityCallback(), max_steps=-1, max_epochs=1).fit(model)
    assert not model.layer._forward_hooks


def test_manual_optimization_with_checkpointing_counts_each_run_once():
    class Checkpointed(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            out = checkpoint(self.layer, batch.requires_grad_(), use_reentrant=False)
            self.manual_backward(out.square().mean())

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*in no backward pass.*")
        make_trainer(OrthogonalityCallback(), max_steps=-1, max_epochs=1, limit_train_batches=2).fit(Checkpointed())
