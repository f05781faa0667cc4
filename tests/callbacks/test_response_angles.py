"""Response angles as they are measured during training: those of the outputs that the layers really have."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ortho_lightning import LSH, AngleMonitor, Gram, OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from tests.callbacks.helpers import PACKAGES, boring, images, make_trainer, twin, vision_module

LAYERS = ("net.0", "net.2", "net.6")


def by_hand(module, x):
    """Response statistics of each layer of the vision module, from all of its outputs."""
    found = {}
    for name, layer in module.named_modules():
        if name in LAYERS:
            layer.register_forward_hook(
                lambda layer, _, output, name=name: found.update({name: (layer, output.clone())})
            )
    module.train()
    module.net(x)
    statistics = {}
    for name, (layer, output) in found.items():
        outputs = output - layer.bias.reshape(-1, *[1] * (output.dim() - 2))
        outputs = outputs.movedim(1, -1).flatten(0, -2) if output.dim() > 2 else outputs
        groups = getattr(layer, "groups", 1)
        statistics[name] = OF.response_statistics(outputs.reshape(len(outputs), groups, -1).transpose(0, 1))
    return statistics


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: AngleMonitor(every_n_steps=1),
        lambda: OrthogonalityCallback(None, log_every_n_steps=1),
        lambda: OrthogonalityCallback(LSH(), weight=0.1, log_every_n_steps=1),
        lambda: OrthogonalityCallback(LSH(detach_inputs=True), weight=0.1, log_every_n_steps=1),
        lambda: OrthogonalityCallback(LSH(), weight=0.0, log_every_n_steps=1),
        lambda: OrthogonalityCallback(Gram(), weight=1e-3, log_every_n_steps=1),
    ],
)
def test_they_are_those_of_the_outputs_of_the_step(package, make):
    module = vision_module(package)
    module.net[5].p = 0.0  # no dropout
    reference = twin(module)
    callback = make()
    make_trainer(callback, package).fit(module, images())  # 4 images of 8 x 8: fewer positions than samples
    expected = by_hand(reference, images().dataset.tensors[0])
    report = {row["name"]: row for row in callback.angle_report()}
    assert set(report) == set(LAYERS)
    for name, statistics in expected.items():
        for key in ("mean", "std", "min", "max", "sampling_error"):
            assert report[name][f"response_{key}"] == pytest.approx(getattr(statistics, key), abs=1e-3), (name, key)
        assert report[name]["response_std_before"] == pytest.approx(statistics.std, abs=1e-3)


@pytest.mark.parametrize("every", [1, 2])
def test_they_are_logged_in_the_steps_that_are_due(every):
    logged = []

    class Watch(AngleMonitor):
        def scalars_of_batch(self):
            scalars = super().scalars_of_batch()
            logged.append({key for key in scalars if key.startswith("response")})
            return scalars

    monitor = Watch(every_n_steps=every)
    make_trainer(monitor, max_steps=4).fit(vision_module(), images(16))
    names = {"response_angle_mean", "response_angle_std", "response_angle_lower", "response_angle_upper"}
    names |= {f"response_angle_{key}/{layer}" for key in ("mean", "std") for layer in LAYERS}
    assert [bool(found) for found in logged] == [step % every == 0 for step in range(4)]
    assert all(found in (set(), names) for found in logged)


@pytest.mark.parametrize("kind", ["filter", "response"])
def test_one_kind_alone(kind):
    trainer = make_trainer(AngleMonitor(kinds=[kind], every_n_steps=1))
    trainer.fit(vision_module(), images())
    assert ("ortho/angle_std" in trainer.callback_metrics) == (kind == "filter")
    assert ("ortho/response_angle_std" in trainer.callback_metrics) == (kind == "response")


@pytest.mark.parametrize("kinds", [(), "filter", ("filter", "filter"), ("input",)])
def test_wrong_kinds_are_named(kinds):
    with pytest.raises(ConfigurationError, match="kinds="):
        AngleMonitor(kinds=kinds)


def checkpointed(module):
    net = module.net
    module.loss = lambda batch: (
        net[6](checkpoint(net[:6], batch[0].requires_grad_(), use_reentrant=False)).square().mean()
    )


def compiled(module):
    module.net.compile(backend="aot_eager")


@pytest.mark.parametrize("change", [checkpointed, compiled])
@pytest.mark.parametrize(
    "make",
    [
        lambda: OrthogonalityCallback(LSH(max_samples=20), weight=0.1, log_every_n_steps=1),
        lambda: OrthogonalityCallback(Gram(), weight=0.01, log_every_n_steps=1),
        lambda: AngleMonitor(every_n_steps=1),
        lambda: AngleMonitor(every_n_steps=2),
    ],
)
def test_they_are_the_same_for_a_checkpointed_and_a_compiled_network(change, make, request):
    if change is compiled:
        request.getfixturevalue("one_graph_of_a_container")

    def report(*changes):
        torch._dynamo.reset()
        torch.manual_seed(3)
        module = vision_module(inplace=False)
        module.net[5].p = 0.0
        for each in changes:
            each(module)
        callback = make()
        make_trainer(callback, max_steps=3).fit(module, images(12))
        assert all(not part._forward_hooks for part in module.modules())
        return {row["name"]: row["response_std"] for row in callback.angle_report()}, module.state_dict()

    (plain, weights), (found, found_weights) = report(), report(change)
    assert set(plain) == set(LAYERS)
    assert found == pytest.approx(plain, abs=0.5)  # a sign may turn where an output is nearly 0
    for name, value in weights.items():
        if "running" not in name and "batches" not in name:  # checkpointing counts a batch twice
            torch.testing.assert_close(found_weights[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("one_graph_of_a_container")
def test_a_compiled_step_is_compiled_once_with_samples_and_once_without():
    class Backend:
        graphs = 0

        def __call__(self, graph, inputs):
            self.graphs += 1
            return graph.forward

    def compiled_graphs(callbacks):
        torch._dynamo.reset()
        backend, module = Backend(), vision_module(inplace=False)
        module.net.compile(backend=backend)
        make_trainer(callbacks, max_steps=12).fit(module, images(48))
        return backend.graphs

    plain = compiled_graphs([])
    assert compiled_graphs([AngleMonitor(every_n_steps=1)]) == plain
    assert compiled_graphs([AngleMonitor(every_n_steps=3)]) == plain + 1


def test_measuring_leaves_training_bit_identical_and_no_hook_behind():
    def weights(callbacks):
        module = vision_module()
        torch.manual_seed(7)
        make_trainer(callbacks, max_steps=4).fit(module, images(16))
        assert all(not part._forward_hooks for part in module.modules())
        return module.state_dict(), torch.get_rng_state()

    (plain, state), (measured, with_state) = weights([]), weights([AngleMonitor(every_n_steps=1)])
    assert all(torch.equal(value, measured[name]) for name, value in plain.items())
    assert torch.equal(state, with_state)


def test_frozen_layers_and_layers_that_do_not_run():
    module = vision_module()
    module.net[0].requires_grad_(False)
    module.unused = nn.Linear(4, 4)
    monitor = AngleMonitor(every_n_steps=1)
    make_trainer(monitor).fit(module, images())
    report = {row["name"]: row for row in monitor.angle_report()}
    assert report["net.0"]["response_std"] >= 0
    assert report["unused"]["response_std"] is None
    assert monitor.angle_report(twin(module))[0]["response_std"] is None  # of another module nothing was measured


def test_the_penalty_on_the_inputs_narrows_them_and_gram_narrows_the_others():
    """On one-sided inputs the two kinds part, and each penalty moves its own."""

    class OneSided(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 16)

        def training_step(self, batch, batch_idx):
            return 0.0 * self.layer(batch.relu()).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    def stds(regularizer):
        torch.manual_seed(3)
        data = torch.utils.data.DataLoader(boring().RandomDataset(32, 64 * 60), batch_size=64)
        callback = OrthogonalityCallback(regularizer, weight=1.0, log_every_n_steps=1)
        make_trainer(callback, max_steps=60, gradient_clip_val=1.0).fit(OneSided(), data)
        (row,) = callback.angle_report()
        return row["response_std"], row["std"]

    (response, filter_), (response_gram, filter_gram) = stds(LSH(lambda1=0.0)), stds(Gram())
    before, filter_before = stds(None)
    assert response < 0.7 * before
    assert filter_gram < 0.6 * filter_before
    assert response < response_gram
    assert filter_gram < filter_
