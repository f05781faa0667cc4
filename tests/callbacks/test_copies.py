"""A module that trains can be pickled, deep-copied and copied at any moment, and what comes out is its own."""

import copy
import functools
import importlib
import inspect
import io
import pickle

import pytest
import torch
from torch import nn

from ortho_lightning import AngleMonitor, OrthogonalityCallback, WhiteningCallback
from ortho_lightning.layers import hooks
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import PACKAGES, boring, make_trainer

HOOKS = [
    name
    for name in dir(importlib.import_module("pytorch_lightning").Callback)
    if name.startswith("on_") and not any(word in name for word in ("test", "predict", "exception", "load_checkpoint"))
]


MADE = []  # by modules that copy themselves


class Copying:
    copies_itself = False

    def training_step(self, batch, batch_idx):
        if self.copies_itself:
            MADE.extend(copied(self) for copied in COPIES)
        return super().training_step(batch, batch_idx)


class Plain(Copying, boring("pytorch_lightning").BoringModel):  # at module level, so that it can be pickled
    pass


class Other(Copying, boring("lightning.pytorch").BoringModel):
    pass


MODELS = dict(zip(PACKAGES, (Plain, Other), strict=True))


def by_pickle(module):
    return pickle.loads(pickle.dumps(module))


def by_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


COPIES = (by_pickle, by_torch_save, copy.deepcopy)


def parts(module):
    """All that hangs on a module: it may be copied alone."""
    return [module.layer, *module.layer._forward_hooks.values()]


def assert_own(made, module):
    assert made is not module
    assert made.training_step.__self__ is made
    assert torch.equal(made.layer(torch.ones(1, 32)), made.layer(torch.ones(1, 32)))
    assert all(hook is hooks.idle_hook for part in made.modules() for hook in part._forward_hooks.values())


def copying(package, hook, made):
    base = importlib.import_module(package).Callback

    class Watching(base):
        def __init__(self):
            self.count = 0

    def called(self, trainer, pl_module, *args, **kwargs):
        self.count += 1
        for copied in COPIES:
            other = copied(pl_module)
            assert_own(other, pl_module)
            made.append(other)
            for part in parts(pl_module):
                copied(part)
        shallow = copy.copy(pl_module)
        assert shallow.layer is pl_module.layer
        for part in parts(pl_module):
            copy.copy(part)

    setattr(Watching, hook, called)
    return Watching()


def ours():
    return [
        OrthogonalityCallback(LSH(), weight=0.01, log_every_n_steps=1),
        OrthogonalityCallback(Gram(), weight=0.01, name="gram", monitor=None),
        AngleMonitor(name="angles"),
        WhiteningCallback("layer"),
    ]


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_in_every_hook_of_another_callback(package, first, hook):
    module, made = MODELS[package](), []
    watching = copying(package, hook, made)
    callbacks = [watching, *ours()] if first else [*ours(), watching]
    make_trainer(callbacks, package, max_steps=2, limit_val_batches=2).fit(module)
    assert len(made) == 3 * watching.count
    if "save_checkpoint" not in hook:
        assert made


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("compiled", [False, True])
def test_inside_of_the_step(package, compiled):
    module = MODELS[package]()
    module.copies_itself = True
    MADE.clear()
    if compiled:
        torch._dynamo.reset()
        module.layer.compile(backend="eager")
    make_trainer(ours(), package, max_steps=2, limit_val_batches=2).fit(module)
    assert len(MADE) >= 6
    for other in MADE:
        assert_own(other, module)
    if compiled:
        torch._dynamo.reset()


def test_copies_of_copies_and_their_training():
    module, made = Plain(), []
    make_trainer([copying("pytorch_lightning", "on_train_batch_end", made), *ours()], max_steps=1).fit(module)
    for other in made:
        again = by_pickle(copy.deepcopy(by_pickle(other)))
        callback = OrthogonalityCallback(Gram(), weight=0.01)
        make_trainer(callback).fit(again)
        assert callback.penalty > 0
        assert "training_step" not in again.__dict__ or again.training_step.__self__ is again


class Keeping(boring("pytorch_lightning").BoringModel):
    def __init__(self, net=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = net

    def training_step(self, batch, batch_idx):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class KeepingOther(boring("lightning.pytorch").BoringModel):
    def __init__(self, net=None):
        super().__init__()
        self.save_hyperparameters()
        self.net = net

    def setup(self, stage):
        if self.compiles:
            self.net = torch.compile(self.net, backend="eager")

    compiles = False
    training_step = Keeping.training_step
    configure_optimizers = Keeping.configure_optimizers


Keeping.setup, Keeping.compiles = KeepingOther.setup, False


@pytest.mark.filterwarnings("ignore:Attribute 'net' is an instance of")
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_checkpoint_that_keeps_the_network_as_a_hyperparameter_is_saved_and_loaded(package, compiled, tmp_path):
    torch._dynamo.reset()
    kind = Keeping if package == "pytorch_lightning" else KeepingOther
    module = kind(nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4)))
    module.compiles = compiled
    saving = importlib.import_module(f"{package}.callbacks").ModelCheckpoint(
        tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1
    )
    trainer = make_trainer([*ours()[:2], saving], package, max_steps=3, enable_checkpointing=True)
    trainer.fit(module)
    stored = torch.load(tmp_path / "step=2.ckpt", weights_only=False)
    net = stored["hyper_parameters"]["net"]
    assert net(torch.ones(1, 32)).shape == (1, 4)
    assert all(hook is hooks.idle_hook for part in net.modules() for hook in part._forward_hooks.values())
    torch._dynamo.reset()


def test_a_method_that_is_wrapped_keeps_its_signature_and_name():
    seen = []
    base = importlib.import_module("pytorch_lightning").Callback

    class Looking(base):
        def on_train_batch_start(self, trainer, pl_module, *args):
            seen.append((str(inspect.signature(pl_module.training_step)), pl_module.training_step.__name__))

    make_trainer([OrthogonalityCallback(Gram()), Looking()]).fit(Plain())
    assert seen == [("(batch, batch_idx)", "training_step")]


@functools.cache
def strict_export_takes_hooks():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, inputs, output: None)
    try:
        torch.export.export(layer, (torch.ones(1, 2),), strict=True)
    except torch._dynamo.exc.UserError:
        return False
    return True


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("regularizer", [LSH(), Gram()])
@pytest.mark.parametrize("how", ["export", "strict export", "trace"])
def test_a_layer_is_exported_inside_of_the_step(package, regularizer, how):
    if how == "strict export" and not strict_export_takes_hooks():
        pytest.skip(f"torch {torch.__version__} exports no module with a hook strictly")
    made = []

    class Exporting(MODELS[package]):
        def training_step(self, batch, batch_idx):
            if how == "trace":
                made.append(torch.jit.trace(self.layer, (batch,)))
            else:
                made.append(torch.export.export(self.layer, (batch,), strict=how == "strict export").module())
            torch.testing.assert_close(made[-1](batch), self.layer(batch))
            return super().training_step(batch, batch_idx)

    callback = OrthogonalityCallback(regularizer, weight=0.01, log_every_n_steps=1)
    make_trainer(callback, package, max_steps=2).fit(Exporting())
    assert len(made) == 2
    assert callback.penalty > 0
