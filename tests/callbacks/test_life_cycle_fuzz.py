"""Random sequences of what can happen to a fit: the module is restored, the penalty is where it should be, no more."""

import copy
import inspect
import logging
import pickle
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pytorch_lightning import Trainer

from tests.callbacks.fits import WEIGHT, assert_untouched, callback_of, kept_logger, lr_find, ours, recorded_module
from tests.callbacks.helpers import PACKAGES, make_trainer

HOOKS = [
    "setup", "on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_before_backward",
    "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end",
    "on_train_end", "on_fit_end", "on_validation_start", "on_validation_batch_end", "on_validation_end", "teardown",
]  # fmt: skip

# the argument came with Lightning 2.6, and with it the default that reads plain values only
_TRUSTED = {"weights_only": False} if "weights_only" in inspect.signature(Trainer.fit).parameters else {}


class Interruption(Exception):  # noqa: N818
    pass


def fail(trainer, module):
    raise Interruption


def validate_a_copy(trainer, module):
    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    make_trainer([], package, limit_val_batches=1).validate(copy.deepcopy(module), verbose=False)


def fit_another(trainer, module):
    package = "pytorch_lightning" if type(trainer).__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    inner, callback = recorded_module(package), ours(name="inner")
    make_trainer(callback, package, max_steps=2).fit(inner)
    assert inner.steps == [True, True]
    assert_untouched(inner)


def try_a_step(trainer, module):
    """As a finder does: with other callbacks in the place of all that there are."""
    callbacks, trainer.callbacks = trainer.callbacks, [type(trainer.callbacks[0]).__mro__[-2]()]
    task, x = module.task, torch.ones(2, 32)
    assert torch.equal(module.training_step(x, 0), module.layer(x).square().mean())
    trainer.callbacks, module.task = callbacks, task


def copy_deeply(trainer, module):
    copied = copy.deepcopy(module)
    assert copied.training_step.__self__ is copied


def copy_by_pickle(trainer, module):
    copied = pickle.loads(pickle.dumps(module))
    assert copied.training_step.__self__ is copied


def copy_flat(trainer, module):
    copy.copy(module)


def edit_the_list(trainer, module):
    trainer.callbacks = trainer.callbacks[::-1]


ACTIONS = [fail, validate_a_copy, fit_another, try_a_step, copy_deeply, copy_by_pickle, copy_flat, edit_the_list]

EVENTS = st.one_of(
    st.tuples(st.just("fit"), st.integers(1, 12)),
    st.tuples(st.sampled_from(HOOKS), st.sampled_from(ACTIONS), st.booleans()),
    st.tuples(st.just("find"), st.booleans()),
    st.just(("compile",)),
    st.tuples(st.just("resume"), st.integers(1, 5)),
    st.sampled_from([("deepcopy",), ("pickle",)]),
)


@pytest.fixture(autouse=True)
def _quiet(caplog):
    for name in ("pytorch_lightning", "lightning.pytorch"):
        caplog.set_level(logging.CRITICAL, name)


class Sequence:
    """One module and one callback through a sequence of events, with what must hold after each."""

    def __init__(self, package, folder):
        self.package = package
        self.folder = folder
        self.module = recorded_module(package)
        self.callback = ours()
        self.checkpoint = None
        self.saved_step = 0

    def run(self, event):
        name, *options = event
        if name == "compile":
            self.module.layer.compile(backend="eager")
        elif name == "deepcopy":
            self.module, self.callback = copy.deepcopy(self.module), copy.deepcopy(self.callback)
        elif name == "pickle":
            self.module, self.callback = (pickle.loads(pickle.dumps(each)) for each in (self.module, self.callback))
        elif name == "fit":
            self.fit(max_steps=options[0])
        elif name == "resume":
            if self.checkpoint is not None:
                self.fit(max_steps=self.saved_step + options[0], ckpt_path=self.checkpoint, begin=self.saved_step)
        elif name == "find":
            self.fit("on_train_epoch_start", lr_find, *options, trial=True)
        else:
            self.fit(name, *options)
        assert_untouched(self.module)

    def fit(self, hook=None, action=None, first=True, max_steps=6, ckpt_path=None, begin=0, trial=False):
        torch._dynamo.reset()  # hooks that come after a compiled call would not be called
        module, callback = self.module, self.callback
        module.task = None
        module.steps.clear()
        module.penalties.clear()
        callbacks = [callback]
        if action is not None:
            callbacks.insert(0 if first else 1, callback_of(self.package, hook, action))
        logger = kept_logger(self.package, self.folder)
        options = {"max_steps": max_steps, "limit_val_batches": 1, "default_root_dir": self.folder, "logger": logger}
        trainer = make_trainer(callbacks, self.package, **options)
        failed = False
        try:
            trainer.fit(module, ckpt_path=ckpt_path, **(_TRUSTED if ckpt_path else {}))
        except Interruption:
            failed = True
        if not trial:
            assert all(module.steps)
            self.check_logged(logger.rows)
        else:
            assert module.steps.count(False) == 4
            assert all(module.steps[-2:])
        if not failed:
            assert callback.state_dict() == {"step": begin + module.steps.count(True)}
            assert trial or ckpt_path is not None or len(module.steps) == max_steps
            self.checkpoint, self.saved_step = self.folder / "last.ckpt", callback.state_dict()["step"]
            trainer.save_checkpoint(self.checkpoint)

    def check_logged(self, rows):
        for step, row in rows:
            if "ortho/penalty" in row:
                assert row["ortho/penalty"] == pytest.approx(self.module.penalties[step], rel=1e-4)
                expected = row["ortho/task_loss"] + WEIGHT * row["ortho/penalty"]
                assert row["ortho/total_loss"] == pytest.approx(expected, rel=1e-4)
        logged = [step for step, row in rows if "ortho/penalty" in row]
        assert len(logged) == len(set(logged))


def check(package, events):
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sequence = Sequence(package, Path(folder))
        for event in events:
            sequence.run(event)
        sequence.run(("fit", 2))


ARGUMENTS = (st.sampled_from(PACKAGES), st.lists(EVENTS, min_size=1, max_size=5))
SETTINGS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.explicit, Phase.reuse, Phase.generate],  # sequences are short, and shrinking them takes minutes
}


@settings(max_examples=30, **SETTINGS)
@given(*ARGUMENTS)
def test_any_sequence_of_events(package, events):
    check(package, events)


@pytest.mark.slow
@settings(max_examples=500, **SETTINGS)
@given(*ARGUMENTS)
def test_any_sequence_of_events_at_length(package, events):
    check(package, events)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_after_backward", "on_train_epoch_end", "on_fit_end"])
@pytest.mark.parametrize("first", [True, False])
def test_each_action_in_the_hooks_that_matter_most(package, hook, action, first):
    check(package, [(hook, action, first)])


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("first", [True, False])
def test_a_resume_after_an_error_within_a_step_goes_on_with_the_saved_step(package, first):
    check(package, [("fit", 6), ("on_before_optimizer_step", fail, first), ("resume", 2)])
