"""Trials, nested fits and edited lists inside a fit: the penalty is in every step of its own fit, and in no other."""

import contextlib
import copy
import importlib

import pytest
import torch

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.regularizers import Gram
from tests.callbacks.fits import WEIGHT, assert_untouched, callback_of, kept_logger, lr_find, ours, recorded_module
from tests.callbacks.helpers import PACKAGES, make_trainer


@pytest.fixture(params=PACKAGES)
def package(request):
    return request.param


def assert_whole(module, callback, steps, trial=0):
    """Every step of the fit had the penalty, and the steps of the trial had none."""
    assert module.steps.count(True) == steps
    assert module.steps.count(False) == trial
    assert callback.state_dict() == {"step": steps}
    assert_untouched(module)


@pytest.mark.parametrize("before", [True, False])
def test_a_finder_inside_of_training_sees_the_task_only_and_the_penalty_is_back_afterwards(package, before, tmp_path):
    callback, module = ours(), recorded_module(package)
    finding = callback_of(package, "on_train_epoch_start", lr_find)
    callbacks = [finding, callback] if before else [callback, finding]
    trainer = make_trainer(callbacks, package, max_steps=12, max_epochs=9, default_root_dir=tmp_path)
    trainer.fit(module)
    assert finding.done
    assert False in module.steps
    first, last = module.steps.index(False), len(module.steps) - module.steps[::-1].index(False)
    assert not any(module.steps[first:last])
    assert all(module.steps[:first])
    assert all(module.steps[last:])
    assert len(module.steps) > last
    assert_untouched(module)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_train_batch_end"])
@pytest.mark.parametrize("before", [True, False])
def test_a_trial_within_a_batch_sees_the_task_only(package, hook, before):
    """As finders make one: with other callbacks in the place of all that there are."""
    losses = []

    def trial(trainer, module):
        callbacks, trainer.callbacks = trainer.callbacks, [importlib.import_module(package).Callback()]
        x = torch.randn(2, 32)
        task = module.task
        losses.append((module.training_step(x, 0), module.layer(x).square().mean()))
        trainer.callbacks, module.task = callbacks, task

    callback, module = ours(), recorded_module(package)
    trying = callback_of(package, hook, trial)
    callbacks = [trying, callback] if before else [callback, trying]
    make_trainer(callbacks, package, max_steps=6).fit(module)
    ((found, plain),) = losses
    assert torch.equal(found, plain)
    assert_whole(module, callback, steps=6)


def test_lightnings_own_finder_at_milestones(package, tmp_path):
    callbacks = importlib.import_module(f"{package}.callbacks")

    class Milestones(callbacks.LearningRateFinder):
        def on_fit_start(self, *args):
            pass

        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch in (0, 1):
                self.lr_find(trainer, pl_module)

    callback, module = ours(), recorded_module(package)
    finder = Milestones(num_training_steps=4, early_stop_threshold=None)
    make_trainer([finder, callback], package, max_steps=20, max_epochs=9, default_root_dir=tmp_path).fit(module)
    assert module.steps.count(False) == 8
    assert all(module.steps[-4:])
    assert_untouched(module)


def test_the_tuner_called_from_a_callback(package, tmp_path):
    tuner = importlib.import_module(f"{package}.tuner.batch_size_scaling")

    def scale(trainer, module):
        tuner._scale_batch_size(trainer, steps_per_trial=1, max_trials=1)

    callback, module = ours(), recorded_module(package)
    scaling = callback_of(package, "on_train_epoch_start", scale)
    trainer = make_trainer([scaling, callback], package, max_steps=6, default_root_dir=tmp_path)
    trainer.fit(module)
    assert scaling.done
    assert all(module.steps[-4:])
    assert_untouched(module)


def test_a_callback_that_forwards_its_hooks_to_this_one(package):
    base = importlib.import_module(package).Callback
    inner = ours()

    class Forwarding(base):
        def __getattribute__(self, name):
            if name.startswith("on_") or name in ("setup", "teardown"):
                return getattr(inner, name)
            return super().__getattribute__(name)

    module = recorded_module(package)
    make_trainer([Forwarding()], package, max_steps=5).fit(module)
    assert_whole(module, inner, steps=5)


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_start", "on_train_batch_end", "on_after_backward"])
@pytest.mark.parametrize("edit", ["replaced", "appended", "another removed", "reversed"])
def test_the_list_edited_by_hand(package, hook, edit):
    base = importlib.import_module(package).Callback
    other = base()

    def run(trainer, module):
        if edit == "appended":
            trainer.callbacks.append(base())
        elif edit == "another removed":
            trainer.callbacks = [each for each in trainer.callbacks if each is not other]
        elif edit == "reversed":
            trainer.callbacks = trainer.callbacks[::-1]
        else:
            trainer.callbacks = [*trainer.callbacks, base()]

    editing, callback, module = callback_of(package, hook, run), ours(), recorded_module(package)
    make_trainer([callback, other, editing], package, max_steps=6).fit(module)
    assert editing.done
    assert module.steps == [True] * 6
    assert_untouched(module)


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_start", "on_train_batch_end", "on_after_backward"])
def test_another_fit_inside_of_a_hook(package, hook):
    inner, outer = recorded_module(package), recorded_module(package)
    second = ours(name="inner")

    def nested(trainer, module):
        make_trainer(second, package, max_steps=3).fit(inner)

    nesting, callback = callback_of(package, hook, nested), ours()
    make_trainer([callback, nesting], package, max_steps=6).fit(outer)
    assert nesting.done
    assert_whole(outer, callback, steps=6)
    assert_whole(inner, second, steps=3)


def test_validation_with_another_trainer_inside_of_a_hook(package):
    def validate(trainer, module):
        copied = copy.deepcopy(module)
        make_trainer([], package, limit_val_batches=1).validate(copied, verbose=False)

    validating, callback, module = (
        callback_of(package, "on_train_batch_end", validate),
        ours(),
        recorded_module(package),
    )
    make_trainer([callback, validating], package, max_steps=6).fit(module)
    assert_whole(module, callback, steps=6)


def test_callbacks_of_the_module(package):
    callback = ours()
    module = recorded_module(package, configure_callbacks=lambda self: [callback])
    make_trainer([], package, max_steps=4).fit(module)
    assert_whole(module, callback, steps=4)


def test_a_callback_of_the_module_takes_the_place_of_the_trainers(package):
    dropped, callback = ours(), ours()
    module = recorded_module(package, configure_callbacks=lambda self: [callback])
    make_trainer([dropped], package, max_steps=4).fit(module)
    assert_whole(module, callback, steps=4)
    assert dropped.penalty is None


@pytest.mark.parametrize("kind", ["StochasticWeightAveraging", "EMAWeightAveraging", "WeightAveraging"])
def test_averages_of_weights(package, kind):
    callbacks = importlib.import_module(f"{package}.callbacks")
    if not hasattr(callbacks, kind):
        pytest.skip("not in this version of Lightning")
    options = {"swa_lrs": 0.01, "swa_epoch_start": 1} if kind == "StochasticWeightAveraging" else {}
    averaging = getattr(callbacks, kind)(**options)
    callback, module = ours(), recorded_module(package)
    make_trainer([averaging, callback], package, max_steps=-1, max_epochs=3).fit(module)
    assert all(module.steps)
    assert len(module.steps) >= 24
    assert_untouched(module)


def test_a_module_that_finds_its_attributes_by_a_method_of_its_own(package):
    def __getattr__(self, name):  # noqa: N807
        if name == "head":
            return self.layer
        return super(type(self), self).__getattr__(name)

    callback, module = ours(), recorded_module(package, __getattr__=__getattr__)
    make_trainer([callback], package, max_steps=3).fit(module)
    assert_whole(module, callback, steps=3)


def test_layers_compiled_in_configure_model(package):
    torch._dynamo.reset()

    def configure_model(self):
        self.layer.compile(backend="eager")

    callback, module = ours(), recorded_module(package, configure_model=configure_model)
    make_trainer([callback], package, max_steps=3).fit(module)
    assert module.steps == [True] * 3
    torch._dynamo.reset()


def test_the_module_in_a_loop_without_trainer_is_the_plain_module(package):
    callback, module = ours(), recorded_module(package)
    make_trainer([callback], package, max_steps=2).fit(module)
    x = torch.randn(2, 32)
    loss = module.training_step(x, 0)
    assert torch.equal(loss, module.layer(x).square().mean())
    fabric = importlib.import_module(
        "lightning.fabric" if package == "lightning.pytorch" else "lightning_fabric"
    ).Fabric
    wrapped = fabric(accelerator="cpu", devices=1).setup_module(module)
    with contextlib.suppress(TypeError):
        wrapped.mark_forward_method("training_step")
    assert torch.equal(wrapped.training_step(x, 0), module.layer(x).square().mean())


def test_no_value_is_logged_of_a_step_without_penalty(package, tmp_path):
    """With a finder before the callback's first step, nothing of the penalty is logged for the trial's steps."""
    callback, module = ours(monitor=None), recorded_module(package)
    finding = callback_of(package, "on_train_epoch_start", lr_find)
    logger = kept_logger(package, tmp_path)
    trainer = make_trainer(
        [callback, finding], package, max_steps=8, max_epochs=5, logger=logger, default_root_dir=tmp_path
    )
    trainer.fit(module)
    with_penalty = [metrics for _, metrics in logger.rows if "ortho/penalty" in metrics]
    assert len(with_penalty) == module.steps.count(True)
    for metrics in with_penalty:
        expected = metrics["ortho/task_loss"] + WEIGHT * metrics["ortho/penalty"]
        assert metrics["ortho/total_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_last_step_is_logged_where_lightning_logs_it_after_a_finder(package, tmp_path):
    callback, module = OrthogonalityCallback(Gram(), weight=WEIGHT, log_every_n_steps=1000), recorded_module(package)
    logger = kept_logger(package, tmp_path)
    finding = callback_of(package, "on_train_epoch_start", lr_find)
    options = {"max_steps": 12, "max_epochs": 9, "logger": logger, "default_root_dir": tmp_path}
    trainer = make_trainer([callback, finding], package, **options)
    trainer.fit(module)
    rows = {step: row for step, row in logger.rows if "ortho/penalty" in row}
    last = max(rows)
    assert last == trainer.fit_loop.epoch_loop._batches_that_stepped - 1
    assert rows[last]["ortho/penalty"] == pytest.approx(module.penalties[last], rel=1e-4)
