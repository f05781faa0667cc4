"""Manual optimization: each backward carries the penalties of what ran for it."""

import pytest
import torch
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.regularizers import Gram
from tests.callbacks.helpers import ALL_ROWS, PACKAGES, boring, lsh_penalty, make_trainer, twin, view_of

BoringModel = boring().BoringModel


@pytest.mark.parametrize("package", PACKAGES)
def test_manual_optimization_joins_the_next_backward(package):
    model = boring(package).ManualOptimBoringModel()
    reference = twin(model)
    seen = []
    data = torch.utils.data.DataLoader(boring(package).RandomDataset(32, 16), batch_size=16)
    optimizer_step = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        seen.append(model.layer.weight.grad.clone())
        return optimizer_step(self, *args, **kwargs)

    torch.optim.SGD.step = step
    try:
        make_trainer(OrthogonalityCallback(ALL_ROWS, weight=0.7), package).fit(model, data)
    finally:
        torch.optim.SGD.step = optimizer_step
    output = reference(next(iter(data)))
    penalty = lsh_penalty(output - reference.layer.bias)
    expected = torch.autograd.grad(reference.loss(output) + 0.7 * penalty, reference.layer.weight)[0]
    torch.testing.assert_close(seen[0], expected)


def test_each_manual_backward_carries_what_ran_since_the_last_one():
    class TwoBackwards(BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.other = nn.Linear(32, 3)
            self.seen = []

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).square().mean())
            self.seen.append((self.layer.weight.grad.clone(), self.other.weight.grad))
            self.layer.weight.grad = None
            self.manual_backward(self.other(batch).square().mean())
            self.seen.append((self.layer.weight.grad, self.other.weight.grad.clone()))
            optimizer.step()

    model = TwoBackwards()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    make_trainer(OrthogonalityCallback(ALL_ROWS, weight=0.7)).fit(model, data)
    x = next(iter(data))
    for layer, found in ((reference.layer, model.seen[0][0]), (reference.other, model.seen[1][1])):
        output = layer(x)
        penalized = output.square().mean() + 0.7 * lsh_penalty(output - layer.bias)
        torch.testing.assert_close(found, torch.autograd.grad(penalized, layer.weight)[0])
    assert model.seen[0][1] is None
    assert model.seen[1][0] is None


def test_discriminator_penalty_stays_out_of_the_generator_step():
    class GAN(BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Linear(32, 8)
            self.discriminator = nn.Linear(8, 4)
            self.grads = {}

        def training_step(self, batch, batch_idx):
            g, d = self.optimizers()
            self.toggle_optimizer(g)
            g.zero_grad()
            self.manual_backward(self.discriminator(self.generator(batch)).mean())
            self.grads["generator"] = self.generator.weight.grad.clone()
            g.step()
            self.untoggle_optimizer(g)
            self.toggle_optimizer(d)
            d.zero_grad()
            self.fake = self.generator(batch).detach()
            self.manual_backward(self.discriminator(self.fake).square().mean())
            self.grads["discriminator"] = self.discriminator.weight.grad.clone()
            self.untoggle_optimizer(d)
            d.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.generator, self.discriminator)]

    model = GAN()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(ALL_ROWS, layers="discriminator", weight=5.0)
    make_trainer(callback, max_steps=-1, max_epochs=1).fit(model, data)
    x = next(iter(data))
    plain = reference.discriminator(reference.generator(x)).mean()
    torch.testing.assert_close(model.grads["generator"], torch.autograd.grad(plain, reference.generator.weight)[0])
    output = reference.discriminator(model.fake)
    penalized = output.square().mean() + 5.0 * lsh_penalty(output - reference.discriminator.bias)
    torch.testing.assert_close(
        model.grads["discriminator"], torch.autograd.grad(penalized, reference.discriminator.weight)[0]
    )
    assert callback.state_dict() == {"step": 1}  # one batch, though two optimizers stepped


@pytest.mark.parametrize("regularizer", [ALL_ROWS, Gram()])
def test_each_backward_of_a_gan_that_shares_its_fakes_carries_its_own_layers(regularizer):
    """Fakes are made once; the discriminator's step uses them detached, the generator's does not."""

    class Shared(BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Linear(32, 8)
            self.discriminator = nn.Linear(8, 4)

        def training_step(self, batch, batch_idx):
            g, d = self.optimizers()
            fake = self.generator(batch)
            d.zero_grad()
            self.manual_backward(self.discriminator(fake.detach()).square().mean())
            self.first = (self.discriminator.weight.grad.clone(), self.generator.weight.grad)
            g.zero_grad()
            self.manual_backward(self.discriminator(fake).mean())
            self.second = self.generator.weight.grad.clone()

        def configure_optimizers(self):
            return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.generator, self.discriminator)]

    model = Shared()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(regularizer, layers=["generator", "discriminator"], weight=0.5)
    make_trainer(callback, max_steps=-1, max_epochs=1).fit(model, data)

    def penalty(layer, output):
        return 0.5 * regularizer.penalty(view_of(layer, output))

    g, d = reference.generator, reference.discriminator
    fake = g(next(iter(data)))
    output = d(fake.detach())
    expected = torch.autograd.grad(output.square().mean() + penalty(d, output), d.weight)[0]
    torch.testing.assert_close(model.first[0], expected)
    assert model.first[1] is None
    output = d(fake)
    expected = torch.autograd.grad(output.mean() + penalty(d, output) + penalty(g, fake), g.weight)[0]
    torch.testing.assert_close(model.second, expected)


def test_manual_optimizers_that_are_stepped_unseen_are_told():
    class Unseen(BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).square().mean())
            optimizer.step()

    with pytest.warns(UserWarning, match="no optimizer step was seen in 50 batches"):
        make_trainer(OrthogonalityCallback(Gram(), weight=1e-3), max_steps=-1, max_epochs=1).fit(Unseen())


def test_total_steps_of_two_manual_optimizers_are_batches():
    seen = []

    class Two(BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = self.layer(batch).square().mean()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(self.parameters(), lr=0.01) for _ in range(2)]

    callback = OrthogonalityCallback(Gram(), weight=1e-3, schedule=lambda s, total: seen.append((s, total)) or 1.0)
    make_trainer(callback, max_steps=8).fit(Two())
    assert seen[-1] == (3, 4)
