"""The callback's state: saved, restored, and training that goes on as if it had not been stopped."""

import io
import warnings

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ModelCheckpoint

from ortho_lightning import GradientShare, OrthogonalityCallback
from ortho_lightning.data.batches import TensorBatches
from ortho_lightning.regularizers import LSH
from tests.callbacks.helpers import boring, make_trainer, vision_module

BoringModel = boring().BoringModel


def test_a_checkpoint_made_between_step_and_batch_end_counts_the_step():
    states = []

    class Saving(Callback):
        def on_train_batch_end(self, trainer, *args):
            states.append((trainer.global_step, callback.state_dict()["step"]))

    callback = OrthogonalityCallback()
    make_trainer([Saving(), callback], max_steps=3).fit(BoringModel())
    assert states == [(1, 1), (2, 2), (3, 3)]


def test_state_is_saved_and_restored(tmp_path):
    callback = OrthogonalityCallback()
    trainer = make_trainer(callback, max_steps=3, enable_checkpointing=False)
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    resumed = OrthogonalityCallback()
    make_trainer(resumed, max_steps=5).fit(BoringModel(), ckpt_path=tmp_path / "c.ckpt")
    assert resumed.state_dict() == {"step": 5}


@pytest.mark.parametrize("weight", [0.05, GradientShare(0.1, every_n_steps=3)])
@pytest.mark.parametrize(("stop", "accumulate"), [(3, 1), (5, 1), (10, 1), (12, 1), (1, 4), (2, 4), (3, 4), (4, 4)])
def test_resumed_training_is_bit_identical(stop, accumulate, weight, tmp_path):
    """With the schedule, the lazy interval and the sampled rows in play, inside an epoch of 10 batches and at its end.

    A window of 4 is cut short at the end of an epoch, so that steps 3 and 6 are of 2 batches.
    """

    def build():
        model = vision_module()
        model.net[5].p = 0.0
        callback = OrthogonalityCallback(
            LSH(max_samples=16), weight=weight, every_n_steps=2, schedule=lambda step, total: (step + 1) / 10
        )
        return model, callback

    x = torch.randn(40, 3, 8, 8)

    def data():
        return TensorBatches(x, torch.zeros(40), batch_size=4, shuffle=True)

    whole, callback = build()
    saving = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=stop, save_top_k=-1)
    options = {"max_steps": 13 // accumulate + 3, "accumulate_grad_batches": accumulate}
    make_trainer([callback, saving], enable_checkpointing=True, **options).fit(whole, data())
    state = callback.state_dict()
    rest, callback = build()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        make_trainer(callback, **options).fit(rest, data(), ckpt_path=tmp_path / f"step={stop}.ckpt")
    assert callback.state_dict() == state
    assert state["step"] == options["max_steps"]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, rest.state_dict()[name]), name


def test_sampled_rows_differ_between_processes_and_are_the_same_on_resume(tmp_path):
    class Seeing(LSH):
        def penalty(self, layer):
            seen.append(layer.outputs.detach())
            return super().penalty(layer)

    def rows(rank, steps, **options):
        seen.clear()
        torch.manual_seed(3)
        callback = OrthogonalityCallback(Seeing(max_samples=3), layers="net.0", weight=0.0)
        trainer = make_trainer(callback, max_steps=steps)
        trainer.strategy.global_rank = rank
        module = vision_module()
        module.net[5].p = 0.0
        trainer.fit(module, TensorBatches(x, torch.zeros(16), batch_size=4), **options)
        trainer.save_checkpoint(tmp_path / f"{rank}-{steps}.ckpt")
        return torch.stack(seen)

    seen, x = [], torch.randn(16, 3, 8, 8)
    first, second, _ = rows(0, 4), rows(1, 4), rows(1, 2)
    assert not any(torch.equal(left, right) for left, right in zip(first, second, strict=True))
    assert torch.equal(rows(1, 4, ckpt_path=tmp_path / "1-2.ckpt"), second[2:])


def test_checkpoint_with_the_callback_loads_without_it(tmp_path):
    trainer = make_trainer(OrthogonalityCallback())
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    stored = torch.load(io.BytesIO((tmp_path / "c.ckpt").read_bytes()), weights_only=True)
    assert any("OrthogonalityCallback" in key for key in stored["callbacks"])
    BoringModel.load_from_checkpoint(tmp_path / "c.ckpt")
