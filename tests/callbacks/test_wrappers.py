"""Strategies, lists of callbacks and modules that the user replaced, before a fit or in the middle of it."""

import importlib

import pytest
import torch
from torch import nn

from ortho_lightning import AngleMonitor
from tests.callbacks.fits import assert_untouched, callback_of, ours, recorded_module
from tests.callbacks.helpers import PACKAGES, make_trainer

HOOKS = ["on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_after_backward", "on_train_batch_end"]


@pytest.fixture(params=PACKAGES)
def package(request):
    return request.param


class Forwarding:
    """Stands before a strategy and is none itself."""

    def __init__(self, strategy):
        self.__dict__["wrapped"] = strategy
        self.__dict__["steps"] = 0

    def __getattr__(self, name):
        return getattr(self.wrapped, name)

    def __setattr__(self, name, value):
        setattr(self.wrapped, name, value)

    def training_step(self, *args, **kwargs):
        self.__dict__["steps"] += 1
        return self.wrapped.training_step(*args, **kwargs)


def wrap(trainer, module=None):
    trainer._accelerator_connector.strategy = Forwarding(trainer.strategy)


@pytest.mark.parametrize("hook", ["before fit", *HOOKS])
def test_a_strategy_behind_an_object_of_the_users(package, hook):
    callback, module = ours(), recorded_module(package)
    wrapping = callback_of(package, hook, wrap)
    trainer = make_trainer([callback, *([] if hook == "before fit" else [wrapping])], package, max_steps=5)
    if hook == "before fit":
        wrap(trainer)
    trainer.fit(module)
    assert trainer.strategy.steps >= 2
    assert module.steps == [True] * 5
    assert callback.state_dict() == {"step": 5}
    assert_untouched(module)


def test_a_strategy_of_the_users_own(package):
    strategies = importlib.import_module(f"{package}.strategies")

    class Own(strategies.SingleDeviceStrategy):
        def training_step(self, *args, **kwargs):
            return super().training_step(*args, **kwargs)

    callback, module = ours(), recorded_module(package)
    make_trainer(callback, package, max_steps=4, strategy=Own(device="cpu")).fit(module)
    assert module.steps == [True] * 4
    assert_untouched(module)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_taken_out_of_the_list_it_takes_part_in_no_further_batch(package, hook, in_place, first):
    callback, module = ours(monitor=None), recorded_module(package)

    def take_out(trainer, module):
        if in_place:
            trainer.callbacks.remove(callback)
        else:
            trainer.callbacks = [each for each in trainer.callbacks if each is not callback]

    taking = callback_of(package, hook, take_out)
    make_trainer([taking, callback] if first else [callback, taking], package, max_steps=6).fit(module)
    assert taking.done
    steps = module.steps.index(False)
    assert steps <= 3  # it is taken out in the third batch at the latest
    assert module.steps == [True] * steps + [False] * (6 - steps)
    assert_untouched(module)


@pytest.mark.parametrize("hook", HOOKS)
def test_put_into_the_list_late_it_takes_part_from_then_on(package, hook):
    callback, monitor, module = ours(), AngleMonitor(every_n_steps=1, name="late"), recorded_module(package)
    putting = callback_of(package, hook, lambda trainer, module: trainer.callbacks.extend([callback, monitor]))
    make_trainer([putting], package, max_steps=6).fit(module)
    missed = module.steps.count(False)
    assert missed <= 3
    assert module.steps == [False] * missed + [True] * (6 - missed)
    assert callback.penalty > 0
    assert set(monitor.measured) == set(monitor.responses) == {"layer"}
    assert_untouched(module)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("first", [True, False])
def test_another_takes_its_place_in_the_middle_of_fit(package, hook, first):
    callback, successor, module = ours(monitor=None), ours(monitor=None), recorded_module(package)

    def replace(trainer, module):
        trainer.callbacks = [successor if each is callback else each for each in trainer.callbacks]

    replacing = callback_of(package, hook, replace)
    make_trainer([replacing, callback] if first else [callback, replacing], package, max_steps=6).fit(module)
    assert module.steps == [True] * 6
    assert successor.state_dict()["step"] >= 4
    assert_untouched(module)


def test_a_fit_of_its_own_trainer_inside_of_a_hook_ends_as_without_the_callback(package, tmp_path):
    """``Tuner(trainer).lr_find`` fits the Trainer that is fitting; Lightning itself cannot go on after that."""
    tuner = importlib.import_module(f"{package}.tuner").Tuner

    def find(trainer, module):
        tuner(trainer).lr_find(module, num_training=4, early_stop_threshold=None, update_attr=False)

    module = recorded_module(package)
    for callbacks in ([], [ours()]):
        finding = callback_of(package, "on_train_epoch_start", find)
        trainer = make_trainer([*callbacks, finding], package, max_steps=6, default_root_dir=tmp_path)
        module.on_before_backward = lambda loss: None
        with pytest.raises(AssertionError):
            trainer.fit(module)
        assert finding.done
        assert_untouched(module)


@pytest.mark.parametrize("forwards", ["attributes of the network", "everything else"])
def test_a_module_that_finds_attributes_in_its_network(package, forwards):
    def __getattr__(self, name):  # noqa: N807
        if forwards == "everything else" and name.startswith("__"):
            raise AttributeError(name)
        try:
            return super(type(self), self).__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_modules"]["layer"], name)

    callback, module = ours(), recorded_module(package, __getattr__=__getattr__)
    make_trainer(callback, package, max_steps=3).fit(module)
    assert module.weight is module.layer.weight
    assert module.steps == [True] * 3
    assert_untouched(module)


def test_a_network_that_configure_model_wraps_by_compile(package):
    torch._dynamo.reset()

    def configure_model(self):
        if not hasattr(self.layer, "_orig_mod"):
            self.layer = torch.compile(self.layer, backend="eager")

    callback, module = ours(), recorded_module(package, configure_model=configure_model)
    trainer = make_trainer(callback, package, max_steps=3)
    trainer.fit(module)
    assert module.steps == [True] * 3
    assert [row["name"] for row in callback.angle_report()] == ["layer"]
    torch._dynamo.reset()


def test_steps_by_hand_before_and_after_fit_are_the_plain_modules(package):
    module = recorded_module(package)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    x = torch.randn(2, 32)

    def by_hand():
        loss = module.training_step(x, 0)
        assert torch.equal(loss, module.layer(x).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    by_hand()
    make_trainer(ours(), package, max_steps=2).fit(module)
    by_hand()
    make_trainer(ours(), package, max_steps=2).fit(module)
    assert module.steps == [True] * 4
    by_hand()


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_epoch_start", "on_train_batch_end", "on_train_epoch_end"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_layer_is_scripted_between_batches(package, hook):
    """Within a batch hooks are there, and ``torch.jit.script`` reads hooks as TorchScript."""
    made = []

    def script(trainer, module):
        made.append(torch.jit.script(nn.Sequential(module.layer)))

    scripting, module = callback_of(package, hook, script), recorded_module(package)
    make_trainer([ours(), scripting], package, max_steps=-1, max_epochs=1).fit(module)
    assert len(made) == 1
    x = torch.randn(2, 32)
    torch.testing.assert_close(made[0](x).shape, module.layer(x).shape)
