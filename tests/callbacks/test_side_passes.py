"""Passes inside of the step that are not the loss's: adversarial examples, saliency, transforms of torch.func."""

import copy

import pytest
import torch
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import PACKAGES, boring, make_trainer


def adversarial(net, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).square().mean(), x)
    return (x + 0.1 * gradient.sign()).detach()


def retained(net, x):
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x).square().mean(), x, retain_graph=True)
    return (x + 0.1 * gradient.sign()).detach()


def saliency(net, x):
    x = x.clone().requires_grad_()
    net(x).square().mean().backward(inputs=[x])
    return (x * x.grad.abs()).detach()


def vectorized_jacobian(net, x):
    return x + torch.autograd.functional.jacobian(net, x[0], vectorize=True).mean(0)


def vmap(net, x):
    return x + torch.func.vmap(net)(x).detach().mean()


def vmap_of_grad(net, x):
    return x + torch.func.vmap(torch.func.grad(lambda one: net(one).square().mean()))(x).detach()


def jacfwd(net, x):
    return x + torch.func.jacfwd(net)(x[0]).mean(0).detach()


def jvp(net, x):
    return x + torch.func.jvp(net, (x,), (x,))[1].detach().mean()


SIDE_PASSES = (adversarial, retained, saliency, vectorized_jacobian, vmap, vmap_of_grad, jacfwd, jvp)
REGULARIZERS = [LSH(max_samples=None), LSH(max_samples=5), LSH(detach_inputs=True), Gram()]


def trained(package, side, callback, aside, **methods):
    """Fit with the side pass through the network itself, or through a copy that no callback knows of."""

    class Model(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Sequential(nn.Linear(32, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))

        def training_step(self, batch, batch_idx):
            x = side(copy.deepcopy(self.layer) if aside else self.layer, batch)
            return self.layer(x).square().mean()

    torch.manual_seed(2)
    model = Model()
    data = torch.utils.data.DataLoader(boring(package).RandomDataset(32, 24), batch_size=8)
    make_trainer(callback, package, max_steps=3).fit(model, data)
    return model


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("regularizer", REGULARIZERS, ids=repr)
@pytest.mark.parametrize("side", SIDE_PASSES)
def test_only_the_runs_that_the_loss_depends_on_are_penalized(package, regularizer, side):
    found, expected = OrthogonalityCallback(regularizer, weight=0.1), OrthogonalityCallback(regularizer, weight=0.1)
    model, reference = trained(package, side, found, False), trained(package, side, expected, True)
    torch.testing.assert_close(found.penalty, expected.penalty, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-5, atol=1e-7)
    unpenalized = trained(package, side, [], False)
    assert not torch.allclose(model.layer[2].weight, unpenalized.layer[2].weight)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("side", SIDE_PASSES)
def test_a_monitor_changes_no_side_pass(package, side):
    monitor = AngleMonitor(every_n_steps=1)
    model, reference = trained(package, side, monitor, False), trained(package, side, [], False)
    assert all(map(torch.equal, model.parameters(), reference.parameters()))
    assert set(monitor.responses) == {"layer.0", "layer.2"}


@pytest.mark.parametrize("package", PACKAGES)
def test_filters_are_penalized_where_the_loss_comes_out_of_vmap_and_outputs_are_reported(package):
    class Mapped(boring(package).BoringModel):
        def training_step(self, batch, batch_idx):
            return torch.func.vmap(self.layer)(batch).square().mean()

    callback = OrthogonalityCallback(Gram(), weight=0.1)
    make_trainer(callback, package, max_steps=2).fit(Mapped())
    assert callback.penalty > 0
    callback = OrthogonalityCallback(LSH(), weight=0.1, log_every_n_steps=1)
    with pytest.warns(UserWarning, match=r"no forward of 'layer' was seen.*torch\.func"):
        make_trainer(callback, package, max_steps=2).fit(Mapped())


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("manual", [False, True])
@pytest.mark.parametrize("kind", ["view changed in place", "tuple"])
@pytest.mark.parametrize("regularizer", [LSH(max_samples=None), Gram()])
def test_a_run_is_found_in_the_graph_behind_views_and_tuples(package, manual, kind, regularizer):
    if kind == "tuple" and isinstance(regularizer, LSH):
        pytest.skip("a penalty on outputs needs a tensor")

    class Viewing(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return (y, None) if kind == "tuple" else y.unsqueeze(0)[0]

    class Model(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = Viewing(32, 4)
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            y = self.layer(batch)
            y = y[0] if kind == "tuple" else y.relu_()
            loss = y.square().mean()
            if not manual:
                return loss
            self.optimizers().zero_grad()
            self.manual_backward(loss)
            self.optimizers().step()
            return None

    callback = OrthogonalityCallback(regularizer, weight=0.1)
    make_trainer(callback, package, max_steps=2).fit(Model())
    assert callback.penalty is not None


@pytest.mark.parametrize("package", PACKAGES)
def test_a_loss_that_depends_on_none_of_the_layers_is_reported(package):
    class Constant(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def training_step(self, batch, batch_idx):
            self.layer(batch)
            return self.scale.square()

    callback = OrthogonalityCallback(Gram(), weight=0.1)
    with pytest.warns(UserWarning, match="depends on no run of its layers"):
        make_trainer(callback, package, max_steps=2).fit(Constant())
    assert callback.penalty is None
