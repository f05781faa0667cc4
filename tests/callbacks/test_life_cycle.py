"""State that the callback leaves behind and keeps, and uses that it rejects."""

import copy
import math
import pickle
import re

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError, LayerSelectionError
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import PACKAGES, boring, images, make_trainer, twin, vision_module

BoringModel = boring().BoringModel  # at module level, so that it can be pickled


def assert_untouched(module):
    assert "training_step" not in module.__dict__
    assert "manual_backward" not in module.__dict__
    assert all(not part._forward_hooks for part in module.modules())


class InterruptError(Exception):
    pass


class Failing(BoringModel):
    where = "training_step"

    def training_step(self, batch, batch_idx):
        if self.where == "training_step":
            raise InterruptError
        return super().training_step(batch, batch_idx)

    def on_after_backward(self):
        if self.where == "on_after_backward":
            raise InterruptError

    def validation_step(self, batch, batch_idx):
        if self.where == "validation_step":
            raise InterruptError


@pytest.mark.parametrize("package", PACKAGES)
def test_after_fit_the_module_is_as_it_was(package):
    module = vision_module(package)
    attributes = set(module.__dict__)
    make_trainer(OrthogonalityCallback(), package, max_steps=2).fit(module, images(8))
    assert_untouched(module)
    assert set(module.__dict__) - attributes <= {"_current_fx_name", "_hparams"}  # Lightning's own
    copy.deepcopy(module)


def test_after_fit_it_pickles_compiles_and_exports():
    model = BoringModel()
    make_trainer(OrthogonalityCallback()).fit(model)
    model.trainer = None
    again = pickle.loads(pickle.dumps(model))
    x = torch.randn(2, 32)
    assert torch.equal(again(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    torch.testing.assert_close(torch.export.export(model.layer, (x,), strict=False).module()(x), model(x))


@pytest.mark.parametrize("where", ["training_step", "on_after_backward", "validation_step"])
def test_an_exception_anywhere_restores_the_module(where):
    model = Failing()
    model.where = where
    with pytest.raises(InterruptError):
        make_trainer(OrthogonalityCallback(), max_steps=4, limit_val_batches=1).fit(model)
    assert_untouched(model)


def test_keyboard_interrupt_restores_the_module():
    class Interrupted(BoringModel):
        def training_step(self, batch, batch_idx):
            raise KeyboardInterrupt

    model = Interrupted()
    with pytest.raises(SystemExit):
        make_trainer(OrthogonalityCallback()).fit(model)
    assert_untouched(model)


def test_an_instance_attribute_comes_back():
    model = BoringModel()
    original = model.training_step
    calls = []

    def own_step(batch, batch_idx):
        calls.append(batch_idx)
        return original(batch, batch_idx)

    model.training_step = own_step
    make_trainer(OrthogonalityCallback()).fit(model)
    assert model.__dict__["training_step"] is own_step
    assert calls == [0]


def test_a_spawned_process_trains_as_this_one_does_and_leaves_the_module_as_it_was():
    model, data = BoringModel(), torch.utils.data.DataLoader(boring().RandomDataset(32, 4), batch_size=2)
    here = twin(model)
    for trained, options in ((model, {"strategy": "ddp_spawn", "devices": 1}), (here, {})):
        callback = OrthogonalityCallback(weight=0.05, log_every_n_steps=1)
        trainer = make_trainer(callback, max_steps=2, **options)
        trainer.fit(trained, data)
        assert trainer.callback_metrics["ortho/penalty"] > 0  # a spawned process hands back weights and metrics only
    assert_untouched(model)
    torch.testing.assert_close(model.layer.weight, here.layer.weight)


def test_fit_twice_and_two_trainers_register_once():
    callback = OrthogonalityCallback(LSH(max_samples=None), weight=0.5)
    model = BoringModel()
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    trainer = make_trainer(callback, max_steps=-1, max_epochs=1)
    trainer.fit(model, data)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, data)
    assert callback.state_dict() == {"step": 2}
    second = twin(BoringModel())
    make_trainer(callback, max_steps=1).fit(second, data)
    assert callback.state_dict() == {"step": 1}
    assert_untouched(model)
    assert_untouched(second)


def test_several_callbacks_add_up_and_leave_in_any_order():
    model = vision_module()
    model.net[5].p = 0.0
    reference = twin(model)
    first = OrthogonalityCallback(Gram(), layers="net.0", weight=1.0, name="first")
    second = OrthogonalityCallback(Gram(), layers="net.6", weight=0.1, name="second")
    trainer = make_trainer([first, second])
    trainer.fit(model, images())
    plain = twin(reference)
    make_trainer().fit(plain, images())
    w0, w6 = reference.net[0].weight, reference.net[6].weight
    gradient = torch.autograd.grad(4 * ((w0.flatten(1) @ w0.flatten(1).T - torch.eye(6)) ** 2).sum() / 4, w0)[0]
    torch.testing.assert_close(model.gradients[0] - plain.gradients[0], gradient, rtol=1e-4, atol=1e-5)
    gradient = 0.1 * torch.autograd.grad(((w6 @ w6.T - torch.eye(5)) ** 2).sum(), w6)[0]
    names = [name for name, _ in reference.named_parameters()]
    at = names.index("net.6.weight")
    torch.testing.assert_close(model.gradients[at] - plain.gradients[at], gradient, rtol=1e-4, atol=1e-5)
    assert first.state_key != second.state_key
    assert_untouched(model)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("kinds", "key"),
    [
        ((OrthogonalityCallback, OrthogonalityCallback), "OrthogonalityCallback{'name': 'ortho'}"),
        ((AngleMonitor, AngleMonitor), "AngleMonitor{'name': 'ortho'}"),
        ((OrthogonalityCallback, AngleMonitor), "AngleMonitor{'name': 'ortho'}"),  # it owns one
    ],
)
def test_equal_names_are_refused_with_the_remedy_before_anything_runs(package, kinds, key):
    model = boring(package).BoringModel()
    trainer = make_trainer([kind() for kind in kinds], package)
    with pytest.raises(ConfigurationError, match=rf"{re.escape(key)}: give one of them another name, as in .*name="):
        trainer.fit(model)
    assert trainer.global_step == 0
    assert_untouched(model)


def test_the_remedy_names_the_callback_whose_name_it_is():
    callbacks = [OrthogonalityCallback(name=name, monitor=AngleMonitor(name="same")) for name in ("a", "b")]
    with pytest.raises(ConfigurationError, match=r"as in AngleMonitor\(\.\.\., name='same2'\)"):
        make_trainer(callbacks).fit(BoringModel())


def test_a_callback_without_angles_and_a_monitor_may_share_a_name():
    make_trainer([OrthogonalityCallback(monitor=None), AngleMonitor()]).fit(BoringModel())


def test_copies_made_while_training_take_their_own_step_along():
    copies = []

    class Teaching(BoringModel):
        def on_train_start(self):
            copies.append(copy.deepcopy(self))

    model = Teaching()
    make_trainer(OrthogonalityCallback()).fit(model)
    (teacher,) = copies
    assert teacher.training_step.__self__ is teacher
    assert all(not part._forward_hooks for part in teacher.modules())


def test_validation_inside_training_adds_nothing():
    class Shared(BoringModel):
        def __init__(self):
            super().__init__()
            self.returned = []

        def validation_step(self, batch, batch_idx):
            with torch.enable_grad():
                output = self.training_step(batch, batch_idx)
            self.returned.append(torch.equal(output["loss"], self.loss(self.layer(batch))))

    model = Shared()
    make_trainer(OrthogonalityCallback(), max_steps=3, limit_val_batches=2, num_sanity_val_steps=1).fit(model)
    assert model.returned
    assert all(model.returned)


def test_validate_test_and_predict_alone_do_nothing():
    callback = OrthogonalityCallback()
    trainer = make_trainer(callback, limit_val_batches=1, limit_test_batches=1, limit_predict_batches=1)
    model = BoringModel()
    trainer.validate(model, verbose=False)
    trainer.test(model, verbose=False)
    trainer.predict(model)
    assert callback.penalty is None
    assert_untouched(model)


def test_no_batches_at_all():
    callback = OrthogonalityCallback()
    make_trainer(callback, limit_train_batches=0).fit(BoringModel())
    assert callback.penalty is None


def test_fast_dev_run_and_overfit_batches():
    for options in ({"fast_dev_run": True}, {"overfit_batches": 1, "max_steps": 2}):
        callback = OrthogonalityCallback()
        make_trainer(callback, **options).fit(BoringModel())
        assert callback.penalty is not None


def test_layers_made_in_configure_model_are_found():
    class Late(BoringModel):
        def __init__(self):
            super().__init__()
            self.late = None

        def configure_model(self):
            if self.late is None:
                self.late = nn.Linear(2, 3)

        def training_step(self, batch, batch_idx):
            return self.late(self.layer(batch)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = OrthogonalityCallback()
    make_trainer(callback).fit(Late())
    assert [layer["name"] for layer in callback.angle_report()] == ["layer", "late"]


def test_lazy_modules_are_measured_once_they_have_weights():
    class Lazy(BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(4)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = OrthogonalityCallback()
    model = Lazy()
    assert callback.angle_report(model) == []
    make_trainer(callback, max_steps=2).fit(model)
    assert callback.angle_report()[0]["d"] == 32


def test_an_error_of_another_callback_on_exception_does_not_keep_the_module_replaced():
    class Bad(Callback):
        def on_exception(self, *args):
            raise RuntimeError("worse")

    model = Failing()
    callback = OrthogonalityCallback()
    with pytest.raises((InterruptError, RuntimeError)):
        make_trainer([Bad(), callback]).fit(model)
    assert_untouched(model)
    # an error outside of the step cannot be heard of; the next use mends it
    model = Failing()
    model.where = "on_after_backward"
    with pytest.raises((InterruptError, RuntimeError)):
        make_trainer([Bad(), callback]).fit(model)
    make_trainer(callback).fit(BoringModel())
    assert_untouched(model)
    with pytest.raises((InterruptError, RuntimeError)):
        make_trainer([Bad(), callback]).fit(model)
    model.where = "nowhere"
    plain = twin(BoringModel())
    plain.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    make_trainer().fit(model)
    torch.manual_seed(0)
    make_trainer().fit(plain)
    assert_untouched(model)
    assert torch.equal(model.layer.weight, plain.layer.weight)


def test_copies_made_between_step_and_backward_carry_no_hooks():
    copies = []

    class Teaching(BoringModel):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.layer(batch)
            return super().training_step(batch, batch_idx)

        def on_before_zero_grad(self, optimizer):
            copies.append(copy.deepcopy(self))

    callback = OrthogonalityCallback()
    make_trainer(callback).fit(Teaching())
    recorded = callback.penalty
    copies[-1].layer(torch.randn(2, 32))
    assert callback.penalty is recorded
    assert pickle.loads(pickle.dumps(copies[-1].layer))(torch.randn(2, 32)).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, r"weight=-1\.0"),
        ({"weight": math.nan}, "weight=nan"),
        ({"weight": math.inf}, "weight=inf"),
        ({"regularizer": "lsh"}, "regularizer='lsh'"),
        ({"regularizer": LSH}, "instance of a Regularizer"),
        ({"schedule": 0.5}, r"schedule=0\.5"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"every_n_steps": 1.5}, r"every_n_steps=1\.5"),
        ({"name": 3}, "name=3"),
        ({"log_every_n_steps": 0}, "log_every_n_steps=0"),
        ({"monitor": 3}, "monitor=3"),
        ({"sync": "all"}, "sync='all'"),
        ({"sync": "global", "regularizer": LSH(normalize="rms")}, "sync='global'"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"layers": 3}, "layers=3"),
        ({"exclude": [1]}, r"exclude=\[1\]"),
        ({"weight": "abc"}, "weight='abc'"),
    ],
)
def test_bad_arguments_are_named_before_training(options, message):
    with pytest.raises(ConfigurationError, match=message):
        OrthogonalityCallback(**options)


def test_bad_selections_are_refused_before_the_first_batch():
    class Counting(BoringModel):
        batches = 0

        def training_step(self, batch, batch_idx):
            Counting.batches += 1

    with pytest.raises(LayerSelectionError, match=r"'encoder' selects no layer.*layer"):
        make_trainer(OrthogonalityCallback(layers="encoder")).fit(Counting())

    class Bare(Counting):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()
            self.scale = nn.Parameter(torch.ones(1))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.raises(LayerSelectionError, match="no layer with two or more filters"):
        make_trainer(OrthogonalityCallback()).fit(Bare())
    assert Counting.batches == 0


def test_outputs_that_are_not_floating_point_are_refused_by_name():
    class Whole(nn.Linear):
        def forward(self, x):
            return super().forward(x).round().long()

    class Odd(BoringModel):
        def __init__(self):
            super().__init__()
            self.odd = Whole(32, 4)

        def training_step(self, batch, batch_idx):
            self.odd(batch)
            return super().training_step(batch, batch_idx)

    with pytest.raises(ConfigurationError, match=r"'odd'.*torch\.int64.*exclude='odd'"):
        make_trainer(OrthogonalityCallback()).fit(Odd())


def test_angle_report_before_fit_needs_a_module():
    callback = OrthogonalityCallback(None)
    with pytest.raises(ConfigurationError, match=r"angle_report\(module\)"):
        callback.angle_report()
    (report,) = callback.angle_report(BoringModel())
    assert set(report) >= {
        "name", "groups", "k", "d", "mean", "std", "min", "max", "rms_cos", "null_std", "spread_ratio", "welch_floor",
    }  # fmt: skip
    assert (report["name"], report["groups"], report["k"], report["d"]) == ("layer", 1, 2, 32)
