"""Schedules of the weight, and penalties on every n-th step."""

import math

import pytest
import torch

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram
from ortho_lightning.schedules import LinearWarmup
from tests.callbacks.helpers import boring, make_trainer, twin

BoringModel = boring().BoringModel


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lazy_interval_and_schedule_follow_optimizer_steps(accumulate):
    weights, seeds = [], []

    class Spy(LSH):
        def penalty(self, layer):
            seeds.append(layer.seed)
            return super().penalty(layer)

    class Model(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            self.plain = super().training_step(batch, batch_idx)["loss"].detach()
            return {"loss": self.layer(batch).square().mean(), "plain": self.layer(batch).square().mean().detach()}

        def on_before_backward(self, loss):
            pass

    def schedule(step, total):
        weights.append((step, total))
        return 1.0

    callback = OrthogonalityCallback(Spy(), every_n_steps=2, schedule=schedule, log_every_n_steps=None)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=2)
    trainer = make_trainer(callback, max_steps=4, accumulate_grad_batches=accumulate)
    trainer.fit(Model(), data)
    assert callback.state_dict() == {"step": 4}
    steps = [step for step, _ in weights[1:]]  # the first call checks the schedule before training
    assert steps == [step for step in (0, 2) for _ in range(accumulate)]
    assert {total for _, total in weights} == {4}
    assert len(set(seeds)) == 2  # micro-batches of a window share their sample


def test_lazy_penalty_is_multiplied_by_its_interval():
    model = boring().BoringModel()
    reference = twin(model)
    seen = []
    model.on_after_backward = lambda: seen.append(model.layer.weight.grad.clone())
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    make_trainer(OrthogonalityCallback(Gram(), weight=0.1, every_n_steps=3)).fit(model, data)
    output = reference(next(iter(data)))
    loss = reference.loss(output) + 3 * 0.1 * OF.gram_penalty(reference.layer.weight)
    torch.testing.assert_close(seen[0], torch.autograd.grad(loss, reference.layer.weight)[0])


def test_warmup_begins_without_penalty():
    model = boring().BoringModel()
    plain = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(weight=100.0, schedule=LinearWarmup(steps=10))
    make_trainer(callback).fit(model, data)
    make_trainer().fit(plain, data)
    assert torch.equal(model.layer.weight, plain.layer.weight)
    assert callback.penalty is not None


def test_a_table_may_serve_as_schedule():
    table = [0.0, 0.5, 1.0]
    callback = OrthogonalityCallback(Gram(), weight=1e-3, schedule=lambda step, total: table[step], log_every_n_steps=1)
    trainer = make_trainer(callback, max_steps=3)
    trainer.fit(BoringModel())
    assert trainer.callback_metrics["ortho/weight"].item() == pytest.approx(1e-3)


def test_a_bad_schedule_is_refused_before_the_first_batch():
    for factor in (-1.0, math.nan):
        callback = OrthogonalityCallback(schedule=lambda step, total, factor=factor: factor)
        with pytest.raises(ConfigurationError, match=rf"gave {factor}"):
            make_trainer(callback).fit(BoringModel())
