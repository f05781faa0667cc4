"""Under torch.compile the penalty is that of the uncompiled module, or the callback says that it is not there."""

import itertools

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import boring, images, make_trainer, vision_module


class Backend:
    """Counts the graphs that it is asked to compile; runs them as they are."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def module_without_dropout():
    module = vision_module(inplace=False)
    module.net[5].p = 0.0
    return module


def compile_module(module, backend):
    return torch.compile(module, backend=backend)


def compile_submodule(module, backend):
    module.net = torch.compile(module.net, backend=backend)
    return module


def compile_in_place(module, backend):
    module.net.compile(backend=backend)
    return module


class CompileLater(Callback):
    """Compiles when the orthogonality callback is in place already."""

    def __init__(self, hook, backend):
        self.backend = backend
        setattr(self, hook, self.compile)

    def compile(self, trainer, pl_module, *args):
        if pl_module.net._compiled_call_impl is None:
            pl_module.net.compile(backend=self.backend)


def fit(module, callbacks, steps=3, **options):
    make_trainer(callbacks, max_steps=steps, **options).fit(module, images(4 * steps))
    return module


@pytest.mark.parametrize("regularizer", [LSH(max_samples=32), LSH(max_samples=32, detach_inputs=True), Gram()])
@pytest.mark.parametrize("compiling", [compile_module, compile_submodule, compile_in_place])
def test_compiled_before_the_callback_is_attached(compiling, regularizer):
    def run(compiled):
        module = module_without_dropout()
        callback = OrthogonalityCallback(regularizer, weight=1e-3, log_every_n_steps=None)
        fit(compiling(module, Backend()) if compiled else module, [callback])
        return callback.penalty, module.gradients

    (penalty, expected), (found_penalty, found) = run(False), run(True)
    torch.testing.assert_close(found_penalty, penalty, rtol=1e-4, atol=1e-5)
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("hook", ["on_train_start", "on_train_batch_start"])
def test_compiled_after_the_callback_is_attached(hook):
    def run(callbacks):
        module = module_without_dropout()
        callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_every_n_steps=None)
        fit(module, [callback, *callbacks])
        return callback.penalty, module.gradients

    backend = Backend()
    (penalty, expected), (found_penalty, found) = run([]), run([CompileLater(hook, backend)])
    assert backend.graphs > 0
    torch.testing.assert_close(found_penalty, penalty, rtol=1e-4, atol=1e-5)
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("compiling", [compile_submodule, compile_in_place])
def test_compiled_code_that_ran_before_fit_is_penalized_or_told_of(compiling, recwarn):
    module = compiling(module_without_dropout(), Backend())
    for batch in images(4):
        module.loss(batch).backward()
    callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_every_n_steps=1)
    fit(module, [callback])
    told = any("no forward of" in str(warning.message) for warning in recwarn)
    assert told != (callback.penalty is not None)


def leave_for_later(module, backend):
    return module


@pytest.mark.parametrize("compiling", [compile_module, compile_submodule, compile_in_place, leave_for_later])
def test_nothing_is_compiled_anew_from_step_to_step(compiling):
    backend, graphs = Backend(), []
    later = [CompileLater("on_train_batch_start", backend)] if compiling is leave_for_later else []

    class Count(Callback):
        def on_train_batch_end(self, *args):
            graphs.append(backend.graphs)

    callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, every_n_steps=3, log_every_n_steps=2)
    fit(compiling(module_without_dropout(), backend), [callback, *later, Count()], steps=14)
    assert graphs[-1] > 0
    assert graphs[-1] == graphs[5], graphs  # lazy steps, with and without a penalty, have been seen by then


def test_buffers_that_a_compiled_graph_gives_away_are_named_where_the_gradient_ratio_needs_them():
    class Curve(nn.Module):
        def forward(self, x):
            return (x.exp().sin() * x.cos()).exp()

    def run(every):
        module = module_without_dropout()
        module.net[1] = torch.compile(Curve(), backend="aot_eager")
        callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_gradient_ratio_every_n_steps=every)
        return fit(module, [callback]).state_dict()

    without = run(None)
    with pytest.raises(ConfigurationError, match=r"log_gradient_ratio_every_n_steps.*donated_buffer = False"):
        run(1)
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        found = run(1)
    assert all(torch.equal(value, found[name]) for name, value in without.items())


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize(("count", "told"), [(3, False), (12, True)])
def test_layers_that_will_run_uncompiled_for_their_number_of_shapes_are_told_of(package, count, told, recwarn):
    class Deep(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            widths = [32, *range(4, 4 + count)]
            self.layer = nn.Sequential(*(nn.Linear(*pair) for pair in itertools.pairwise(widths)))
            self.layer.compile(backend="eager")

        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    make_trainer(OrthogonalityCallback(Gram(), weight=1e-3), package, max_steps=2).fit(Deep())
    messages = [str(w.message) for w in recwarn if "recompile_limit" in str(w.message)]
    assert len(messages) == told
    assert not told or "12 shapes" in messages[0]
