"""The filters of chosen layers are orthogonal through a whole fit, in checkpoints, and after them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from ortho_lightning import AngleMonitor, OrthogonalConstraint, OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError
from ortho_lightning.layers.constraint import constraint_of
from ortho_lightning.layers.filters import layer_filters
from tests.callbacks.fits import assert_untouched
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module


class Watch:
    """Keeps the largest deviation of the singular values from 1, after each step."""

    def __init__(self, package):
        import importlib

        outer = self
        self.errors = []

        class Callback(importlib.import_module(package).Callback):
            def on_train_batch_end(self, trainer, pl_module, *args):
                outer.errors.append(max(deviation(layer) for layer in (pl_module.net[0], pl_module.net[2])))

        self.callback = Callback()


def deviation(layer):
    return (torch.linalg.svdvals(layer_filters(layer).detach()) - 1).abs().max().item()


def fit(callbacks, module=None, package="pytorch_lightning", steps=6, ckpt_path=None, **options):
    module = vision_module(package) if module is None else module
    trainer = make_trainer(callbacks, package, **{"max_steps": steps, **options})
    trainer.fit(module, images(24), ckpt_path=ckpt_path)
    return module, trainer


def weights(module):
    return [layer.weight.detach().clone() for layer in module.net if isinstance(layer, (nn.Conv2d, nn.Linear))]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("method", ["orthogonal", "geotorch"])
def test_filters_are_orthogonal_after_every_step_and_move(package, method):
    if method == "geotorch":
        pytest.importorskip("geotorch")
    watch, constraint = Watch(package), OrthogonalConstraint(exclude="net.6", method=method)
    module, _ = fit([constraint, watch.callback], package=package)
    assert len(watch.errors) == 6
    assert max(watch.errors) < 1e-5
    start = vision_module(package)
    constraint.apply(start)
    assert not torch.equal(module.net[0].weight, start.net[0].weight)
    assert type(module.net[6]) is nn.Linear
    assert_untouched(module)
    assert not module._load_state_dict_pre_hooks


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2, "max_steps": 3},
                                     {"gradient_clip_val": 0.1}])  # fmt: skip
def test_filters_stay_orthogonal_under_features_of_the_trainer(options):
    watch = Watch("pytorch_lightning")
    fit([OrthogonalConstraint(), watch.callback], **options)
    assert max(watch.errors) < 1e-5


def test_a_monitor_shows_the_angles_of_the_constrained_filters():
    constraint, monitor = OrthogonalConstraint(), AngleMonitor(exclude="net.6", every_n_steps=1)
    fit([constraint, monitor])
    for row in monitor.angle_report():
        assert row["k"] <= row["d"]
        assert row["mean"] == pytest.approx(90, abs=1e-3)
        assert row["std"] == pytest.approx(0, abs=1e-3)
        assert row["response_std"] > 0


def test_a_penalty_on_outputs_trains_beside_the_constraint():
    callback = OrthogonalityCallback(weight=0.1)
    fit([OrthogonalConstraint(layers="net.0"), callback])
    assert callback.penalty > 0


def test_nothing_is_drawn_from_the_global_random_state():
    module = vision_module()
    state = torch.random.get_rng_state()
    OrthogonalConstraint().apply(module)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = vision_module()
    torch.manual_seed(99)
    OrthogonalConstraint().apply(other)
    for first, second in zip(module.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("method", ["orthogonal", "geotorch"])
def test_a_resumed_fit_ends_with_the_same_bits(tmp_path, method):
    if method == "geotorch":
        pytest.importorskip("geotorch")

    def module():
        made = vision_module()
        made.net[5].p = 0.0  # Lightning keeps no random state
        return made

    whole, _ = fit([OrthogonalConstraint(method=method)], module(), steps=-1, max_epochs=2)
    _, trainer = fit([OrthogonalConstraint(method=method)], module(), steps=-1, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    options = {"steps": -1, "max_epochs": 2, "ckpt_path": tmp_path / "half.ckpt"}
    resumed, _ = fit([OrthogonalConstraint(method=method)], module(), **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_a_checkpoint_is_tested_in_a_new_model_of_either_kind(tmp_path):
    class Tested(type(vision_module())):
        def test_step(self, batch, batch_idx):
            self.tested = self.net(batch[0]).sum().item()

    def module():
        made = vision_module()
        made.__class__ = Tested
        return made

    constrained, trainer = fit([OrthogonalConstraint()], module())
    trainer.save_checkpoint(tmp_path / "constrained.ckpt")
    free, trainer = fit([], module())
    trainer.save_checkpoint(tmp_path / "free.ckpt")
    for trained, name in ((constrained, "constrained"), (free, "free")):
        other = module()
        trainer = make_trainer([OrthogonalConstraint()])
        trainer.test(other, images(), ckpt_path=tmp_path / f"{name}.ckpt", verbose=False)
        assert all(torch.equal(a, b) for a, b in zip(weights(other), weights(trained), strict=True))
        assert not other._load_state_dict_pre_hooks
        trained.eval()
        assert other.tested == pytest.approx(trained.net(next(iter(images()))[0]).sum().item(), rel=1e-5)


def test_an_evaluation_changes_no_weight():
    module = vision_module()
    before = weights(module)
    make_trainer([OrthogonalConstraint()], limit_val_batches=1).validate(module, images(), verbose=False)
    assert all(torch.equal(a, b) for a, b in zip(weights(module), before, strict=True))


def test_a_second_fit_goes_on_from_the_first():
    constraint = OrthogonalConstraint()
    module, _ = fit([constraint])
    before = weights(module)
    fit([constraint], module, max_steps=-1, max_epochs=0)
    assert all(torch.equal(a, b) for a, b in zip(weights(module), before, strict=True))


def test_removing_leaves_an_ordinary_model_with_the_same_function():
    constraint = OrthogonalConstraint()
    module, _ = fit([constraint])
    x = next(iter(images()))[0]
    copied = copy.deepcopy(module)
    expected = module.eval().net(x)
    constraint.remove()
    assert torch.equal(module.net(x), expected)
    assert set(module.state_dict()) == set(vision_module().state_dict())
    assert all(constraint_of(layer) is None for layer in module.net)
    constraint.remove(copied)
    assert torch.equal(copied.eval().net(x), expected)
    fit([], module)  # and it trains on, without the constraint
    assert deviation(module.net[0]) > 1e-4
    with pytest.raises(ConfigurationError, match="nothing is constrained yet"):
        OrthogonalConstraint().remove()


class Late(type(vision_module())):
    """Makes its layers in configure_model."""

    applied = None

    def configure_model(self):
        if self.net is None:
            self.net = vision_module().net
            if self.applied is not None:
                self.applied.apply(self)


def late(applied=None):
    module = vision_module()
    module.__class__ = Late
    module.net, module.applied = None, applied
    return module


def test_layers_that_configure_model_makes_are_constrained_there_or_named():
    with pytest.raises(ConfigurationError, match=r"layers \['net.0', 'net.2', 'net.6'\] were made after"):
        fit([OrthogonalConstraint()], late())
    watch, constraint = Watch("pytorch_lightning"), OrthogonalConstraint()
    fit([constraint, watch.callback], late(constraint))
    assert max(watch.errors) < 1e-5


def test_mistakes_are_named_before_training(monkeypatch):
    with pytest.raises(LayerSelectionError, match="layers='nte"):
        fit([OrthogonalConstraint(layers="nte.0")])
    with pytest.raises(ConfigurationError, match="give one of them another name"):
        fit([OrthogonalConstraint(), OrthogonalConstraint()])
    with pytest.raises(ConfigurationError, match="use 'bf16-mixed'"):
        fit([OrthogonalConstraint()], precision="bf16-true")
    module = vision_module()
    parametrizations.spectral_norm(module.net[0])
    with pytest.raises(UnsupportedLayerError, match=r"Layer 'net.0'.*exclude='net.0'"):
        fit([OrthogonalConstraint()], module)
    monkeypatch.setitem(__import__("sys").modules, "geotorch", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ortho-lightning\[geotorch\]'"):
        fit([OrthogonalConstraint(method="geotorch")])


def test_two_constraints_share_a_model():
    first, second = OrthogonalConstraint("net.0"), OrthogonalConstraint("net.2", orthogonal_map="cayley", name="second")
    watch = Watch("pytorch_lightning")
    fit([first, second, watch.callback])
    assert max(watch.errors) < 1e-5
