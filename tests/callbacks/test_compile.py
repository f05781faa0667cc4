"""Under torch.compile the penalty is that of the uncompiled module, or the callback says that it is not there."""

import importlib
import itertools

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cost.cases import Case
from ortho_lightning.experiments.cost.networks import compared, unreached
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module


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


@pytest.fixture
def _containers_are_one_graph():
    """torch 2.6 does not compile a container in place, such as a Sequential, but each part of other origin in it."""
    backend, container = Backend(), nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    container.compile(backend=backend)
    container(torch.zeros(1, 2))
    torch._dynamo.reset()
    if backend.graphs != 1:
        pytest.skip(f"torch {torch.__version__} does not compile a container in place as one graph")


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
def test_compiled_code_that_ran_before_fit_is_compiled_anew(compiling):
    def run(compiled):
        module = module_without_dropout()
        if compiled:
            module = compiling(module, Backend())
        for batch in images(4):
            module.loss(batch).backward()
        module.zero_grad()
        callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_every_n_steps=1)
        fit(module, [callback])
        return callback.penalty

    torch.testing.assert_close(run(True), run(False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regularizer", [LSH(max_samples=32), Gram()])
def test_code_of_another_module_of_the_same_class_is_not_taken(regularizer):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(x).relu()

    def run(compiled):
        module = module_without_dropout()
        halves = [Half() for _ in range(3)]
        module.halves = nn.ModuleList(halves)
        for half in halves if compiled else ():
            half.compile(backend=Backend())
        loss = module.loss
        module.loss = lambda batch: loss([halves[2](halves[1](halves[0](batch[0])))])
        callback = OrthogonalityCallback(regularizer, layers="halves.[12].conv", weight=1e-3, log_every_n_steps=1)
        fit(module, [callback])
        found = callback.penalty.clone()
        fit(module, [callback])  # the hooks of the last fit are gone, and the code is that of others
        return found, callback.penalty, [half.conv.weight.detach().clone() for half in halves]

    before = torch._dynamo.config.skip_nnmodule_hook_guards
    for found, expected in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.config.skip_nnmodule_hook_guards == before


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

    class BackwardFirst(Callback):
        """The first backward decides what is given away; that of a step which measures would not give anything."""

        def on_train_start(self, trainer, pl_module):
            for batch in images(4):
                pl_module.loss(batch).backward()
            pl_module.zero_grad()

    def run(every):
        module = module_without_dropout()
        module.net[1] = torch.compile(Curve(), backend="aot_eager")
        callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_gradient_ratio_every_n_steps=every)
        return fit(module, [callback, BackwardFirst()]).state_dict()

    without = run(None)
    with pytest.raises(ConfigurationError, match=r"log_gradient_ratio_every_n_steps.*donated_buffer = False"):
        run(1)
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        found = run(1)
    assert all(torch.equal(value, found[name]) for name, value in without.items())


def residual_network():
    """Layers of more shapes than dynamo compiles one piece of code for, shared and in place successors among them."""

    class Block(nn.Module):
        def __init__(self, before, after):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after)
            self.skip = nn.Conv2d(before, after, 1)

        def forward(self, x):
            return torch.relu_(self.norm(self.conv(x))) + self.skip(x)

    return nn.Sequential(
        *(Block(*pair) for pair in itertools.pairwise([3, *range(4, 16)])), nn.Flatten(), nn.LazyLinear(5)
    )


def attention_network():
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=4),
        nn.Flatten(2),
        Transposed(),
        nn.TransformerEncoder(encoder, 2),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


class Transposed(nn.Module):
    def forward(self, x):
        return x.mT


@pytest.mark.usefixtures("_containers_are_one_graph")
@pytest.mark.parametrize("network", [residual_network, attention_network])
@pytest.mark.parametrize("regularizer", [LSH(max_samples=20), LSH(max_samples=20, detach_inputs=True), Gram()])
def test_a_network_is_as_many_graphs_with_the_callback_as_without(network, regularizer):
    def graphs(callbacks):
        torch._dynamo.reset()
        torch.manual_seed(0)
        module, backend = module_without_dropout(), Backend()
        module.net = network()
        module.net(torch.zeros(1, 3, 8, 8))
        module.net.compile(backend=backend)
        with torch._dynamo.config.patch(error_on_recompile=True):
            fit(module, callbacks)
        return backend.graphs

    inside = "*self_attn.out_proj" if network is attention_network else None  # never called
    callback = OrthogonalityCallback(regularizer, weight=1e-3, exclude=inside, log_every_n_steps=None)
    assert graphs([callback]) == graphs([]) == 1
    assert callback.penalty > 0


@pytest.mark.usefixtures("_containers_are_one_graph")
@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("later", [False, True])
def test_a_hundred_steps_compile_once(package, window, later):
    module, backend = vision_module(package, inplace=False), Backend()
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=1e-3)
    callbacks = [OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_every_n_steps=10)]
    if later:
        base = importlib.import_module(package).Callback
        kind = type(
            "Later", (base,), {"on_train_start": lambda self, trainer, module: module.net.compile(backend=backend)}
        )
        callbacks.append(kind())
    else:
        module.net.compile(backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        make_trainer(callbacks, package, max_steps=100, accumulate_grad_batches=window).fit(
            module, images(400 * window)
        )
    assert backend.graphs == 1
    assert callbacks[0].penalty > 0


def test_eager_and_compiled_code_take_the_same_samples_in_every_step():
    class Keep(LSH):
        def __init__(self):
            super().__init__(max_samples=20)
            self.kept = []

        def penalties(self, layers):
            self.kept.append([layer.outputs.detach().clone() for layer in layers])
            return super().penalties(layers)

    def samples(compiled):
        module, regularizer = module_without_dropout(), Keep()
        if compiled:
            module.net.compile(backend=Backend())
        fit(module, [OrthogonalityCallback(regularizer, weight=1e-3, monitor=None)], steps=4)
        return regularizer.kept, module.gradients

    (expected, gradients), (found, found_gradients) = samples(False), samples(True)
    assert len(found) == 4
    for step, others in zip(expected, found, strict=True):
        for one, other in zip(step, others, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found[0][0], found[1][0])
    for one, other in zip(gradients, found_gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


def test_a_layer_that_runs_twice_in_compiled_code_is_sampled_twice():
    def penalty(compiled):
        module = module_without_dropout()
        first = module.net[0]
        shared = nn.Conv2d(6, 6, 3, padding=1)
        module.net = nn.Sequential(first, shared, nn.Tanh(), shared, nn.Flatten(), nn.Linear(384, 5))
        if compiled:
            module.net.compile(backend=Backend())
        callback = OrthogonalityCallback(LSH(max_samples=None), layers="net.1", weight=1e-3)
        torch.manual_seed(3)
        nn.init.normal_(shared.weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(module.net[5].weight, generator=torch.Generator().manual_seed(1))
        return fit(module, [callback], steps=1), callback.penalty

    (_, expected), (_, found) = penalty(False), penalty(True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("regularizer", "monitor", "graphs"),
    # a step in which the monitor takes samples of its own is a graph of its own, once
    [(None, None, 1), (LSH(), "auto", 1), (Gram(), None, 1), (Gram(), "auto", 2)],
)
@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_torchvisions_networks_stay_one_graph(name, regularizer, monitor, graphs):
    network, batch = Case(name, 4, 32, 1).make()
    module, backend = module_without_dropout(), Backend()
    module.net = network
    module.net.compile(backend=backend)
    callbacks = []
    if regularizer is not None:
        chosen = {"layers": compared(network), "exclude": unreached(network)}
        callbacks = [OrthogonalityCallback(regularizer, weight=1e-6, monitor=monitor, **chosen)]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(batch[0]), batch_size=4)
    with torch._dynamo.config.patch(error_on_recompile=graphs == 1, recompile_limit=2):
        make_trainer(callbacks, max_epochs=5, max_steps=-1).fit(module, loader)
    assert backend.graphs == graphs
