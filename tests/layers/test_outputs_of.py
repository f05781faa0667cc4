"""Penalties on the outputs of any module: a block, a projector, a norm."""

import copy
import math

import pytest
import torch
from torch import nn

from ortho_lightning import LSH, AngleMonitor, GradientShare, Gram, OrthogonalityCallback, layers
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError, LayerSelectionError, UnsupportedLayerError
from ortho_lightning.layers import OutputsOf, registry
from ortho_lightning.regularizers import KoLeo, Regularizer, Sampling, vicreg_cov
from ortho_lightning.regularizers import decov as decov_of_the_package
from tests.callbacks.helpers import PACKAGES, make_trainer, recording


class OnOutputs(Regularizer):
    """A penalty on all outputs (n, k) of a module."""

    sampling = Sampling(max_samples=None)

    def __init__(self, formula):
        self.formula = formula

    def penalty(self, layer):
        return self.formula(layer.outputs[0])


def covariance(z):
    centred = z - z.mean(0)
    return centred.T @ centred / (len(z) - 1)


def vicreg_covariance(z):
    c = covariance(z)
    return (c.square().sum() - c.diagonal().square().sum()) / len(c)


def decov(z):
    c = covariance(z)
    return (c.square().sum() - c.diagonal().square().sum()) / 2


def koleo(z):
    unit = nn.functional.normalize(z, dim=-1)
    distances = torch.cdist(unit, unit) + 9 * torch.eye(len(z), dtype=z.dtype)
    return -distances.min(1).values.log().mean()


class SelfSupervised(nn.Module):
    """A backbone and a projector that sees two views."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.norm = nn.LayerNorm(6, elementwise_affine=False)
        self.projector = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))

    def forward(self, x):
        return self.projector(self.norm(self.backbone(x).mean((2, 3))))


def views(seed=2):
    return torch.randn(2, 7, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def module_of(package, network):
    def loss(net):
        one, other = views()
        return (net(one) - net(other)).square().mean()

    return recording(network, loss, package)


def network():
    torch.manual_seed(4)
    return SelfSupervised()


@pytest.mark.parametrize(
    ("regularizer", "formula", "tolerance"),
    [
        (vicreg_cov(max_samples=None), vicreg_covariance, 1e-5),
        (decov_of_the_package(max_samples=None), lambda z: decov(z) * (len(z) - 1) ** 2 / len(z) ** 2, 1e-5),
        (KoLeo(max_samples=None), koleo, 1e-3),  # the guard against equal samples
    ],
)
def test_the_packages_penalties_on_outputs_run_on_a_projector(regularizer, formula, tolerance):
    reference = network()
    expected = sum(formula(reference(view)) for view in views()) / 2
    callback = OrthogonalityCallback(regularizer, layers="net.projector", weight=0.5, monitor=None)
    module = module_of("pytorch_lightning", network())
    make_trainer(callback).fit(module)
    torch.testing.assert_close(callback.penalty, expected.detach(), rtol=tolerance, atol=tolerance)
    assert module.gradients["net.backbone.0.weight"].abs().max() > 0


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("formula", [vicreg_covariance, decov, koleo])
def test_penalties_on_a_projector_are_the_mean_over_its_views_and_train_what_is_below(formula, package):
    reference = network()
    module = module_of(package, network())
    callback = OrthogonalityCallback(OnOutputs(formula), layers="net.projector", weight=0.5, log_every_n_steps=1)
    make_trainer(callback, package).fit(module, [torch.zeros(1)])
    one, other = map(reference, views())
    penalty = (formula(one) + formula(other)) / 2
    torch.testing.assert_close(callback.penalty, penalty.detach())
    ((one - other).square().mean() + 0.5 * penalty).backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(module.gradients[f"net.{name}"], parameter.grad, rtol=1e-4, atol=1e-6)


def test_a_norm_without_weights_and_a_block_are_penalized_along_the_axis_that_is_given():
    reference = network()
    module = module_of(PACKAGES[0], network())
    chosen = ["net.norm", OutputsOf("net.backbone", axis=1)]
    callback = OrthogonalityCallback(OnOutputs(decov), layers=chosen, log_every_n_steps=1)
    trainer = make_trainer(callback)
    trainer.fit(module, [torch.zeros(1)])
    expected = {"net.backbone": [], "net.norm": []}
    for view in views():
        maps = reference.backbone(view)
        expected["net.backbone"].append(decov(maps.movedim(1, -1).flatten(0, -2)))
        expected["net.norm"].append(decov(reference.norm(maps.mean((2, 3)))))
    for name, found in expected.items():
        torch.testing.assert_close(
            trainer.callback_metrics[f"ortho/penalty/{name}"], torch.stack(found).mean().detach()
        )
    assert list(callback.monitor.responses) == ["net.backbone", "net.norm"]
    assert callback.monitor.responses["net.backbone"].n == 7 * 4 * 4
    assert not any(name.endswith("/net.norm") and "/angle" in name for name in trainer.callback_metrics)


def test_the_share_of_the_gradient_is_that_on_the_modules_own_parameters():
    module = module_of(PACKAGES[0], network())
    regularizer = OnOutputs(vicreg_covariance)
    callback = OrthogonalityCallback(
        regularizer, layers="net.projector", weight=GradientShare(0.3), log_every_n_steps=1
    )
    trainer = make_trainer(callback)
    trainer.fit(module, [torch.zeros(1)])
    assert trainer.callback_metrics["ortho/gradient_ratio"].item() == pytest.approx(0.3, rel=1e-4)


class Recurrent(nn.Module):
    def __init__(self, element=0):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.element = element

    def forward(self, x):
        return self.rnn(x.flatten(2).mT)[self.element]


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize(("element", "expected"), [(0, (36 * 7, 4)), (1, (7, 4))])
def test_an_element_of_an_output_is_named_by_its_index_whatever_the_task_uses(element, expected, task):
    seen = []
    module = module_of(PACKAGES[0], Recurrent(task))
    callback = OrthogonalityCallback(
        OnOutputs(lambda z: seen.append(z.shape) or decov(z)), layers=OutputsOf("net.rnn", element), monitor=None
    )
    make_trainer(callback).fit(module, [torch.zeros(1)])
    assert set(seen) == {expected}
    assert module.gradients["net.rnn.weight_hh_l0"].any()


def test_an_element_of_a_mapping_is_named_by_its_key():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    bert = transformers.BertModel(config)

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = bert

        def forward(self, x):
            return self.bert(x[:, 0, 0].abs().long()).last_hidden_state

    module = module_of(PACKAGES[0], Pooled())
    wanted = OutputsOf("net.bert", "pooler_output")
    seen = []
    callback = OrthogonalityCallback(OnOutputs(lambda z: seen.append(z.shape) or decov(z)), layers=wanted)
    make_trainer(callback).fit(module, [torch.zeros(1)])
    assert set(seen) == {(7, 8)}  # the task depends on the run, if not on the pooler
    seen.clear()
    wanted = OutputsOf("net.bert", "last_hidden_state")
    callback = OrthogonalityCallback(OnOutputs(lambda z: seen.append(z.shape) or decov(z)), layers=wanted)
    make_trainer(callback).fit(module, [torch.zeros(1)])
    assert set(seen) == {(7 * 6, 8)}


def test_outputs_that_are_no_tensor_say_what_to_give():
    module = module_of(PACKAGES[0], Recurrent())
    callback = OrthogonalityCallback(OnOutputs(decov), layers=OutputsOf("net.rnn"), monitor=None)
    with pytest.raises(UnsupportedLayerError, match=r"'net\.rnn:output'.*tuple of 2.*OutputsOf.*element="):
        make_trainer(callback).fit(module, [torch.zeros(1)])


@pytest.mark.parametrize("element", [0, "z", "T"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_single_tensor_has_no_elements(element, compiled):
    torch._dynamo.reset()
    module = module_of(PACKAGES[0], network())
    if compiled:
        module.net.compile(backend="eager")
    callback = OrthogonalityCallback(OnOutputs(decov), layers=OutputsOf("net.projector", element), monitor=None)
    with pytest.raises(UnsupportedLayerError, match=r"'net\.projector'.* is a single tensor: leave element= out"):
        make_trainer(callback).fit(module, [torch.zeros(1)])
    torch._dynamo.reset()


@pytest.mark.parametrize(("element", "message"), [(7, "tuple of 2, of which element=7.*"), (None, "tuple of 2.*")])
def test_an_element_of_a_registered_kernel_is_named_where_it_is_registered(monkeypatch, element, message):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1)), x

    class First(nn.Sequential):
        def forward(self, x):
            return self[0](x)[0]

    layers.register(Pair)(lambda module: layers.Kernel("weight", outputs=layers.Outputs(-1, "bias", element)))
    callback = OrthogonalityCallback(OnOutputs(decov), layers="net.0", monitor=None)
    with pytest.raises(UnsupportedLayerError, match=f"'net.0'.*{message}Outputs\\(element=") as raised:
        make_trainer(callback).fit(module_of(PACKAGES[0], First(Pair(108, 4))), [torch.zeros(1)])
    assert "OutputsOf" not in str(raised.value)


def test_a_registered_element_of_a_single_tensor_is_named_and_a_monitor_measures_nothing_false(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))

    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x.flatten(1))

    layers.register(Own)(lambda module: layers.Kernel("weight", outputs=layers.Outputs(-1, "bias", 0)))
    callback = OrthogonalityCallback(OnOutputs(decov), layers="net.0", monitor=None)
    with pytest.raises(
        UnsupportedLayerError, match=r"'net\.0'.* is a single tensor: leave element= of .*Outputs\(elem"
    ):
        make_trainer(callback).fit(module_of(PACKAGES[0], nn.Sequential(Own(108, 4))), [torch.zeros(1)])
    monitor = AngleMonitor(["net.0", OutputsOf("net.0", element=0)], every_n_steps=1)
    make_trainer([monitor]).fit(module_of(PACKAGES[0], nn.Sequential(Own(108, 4))), [torch.zeros(1)])
    assert monitor.responses == {}


def test_a_layer_with_filters_is_meant_by_its_filters_unless_its_outputs_are_asked_for():
    model = network()
    assert list(layers.select_parts(model, "projector.*", outputs=True)) == ["projector.0", "projector.2"]
    assert list(layers.select_parts(model, OutputsOf("projector.2"), outputs=True)) == ["projector.2:output"]
    both = layers.select_parts(model, [OutputsOf("projector.2"), "projector.2", "projector"], outputs=True)
    assert list(both) == ["projector", "projector.2", "projector.2:output"]
    assert list(layers.select_parts(model, ["projector", "backbone"], exclude="back*", outputs=True)) == ["projector"]


def test_raw_outputs_of_a_layer_keep_their_bias():
    model = nn.Sequential(nn.Linear(3, 4))
    part = layers.select_parts(model, OutputsOf("0"), outputs=True)["0:output"]
    output = model(torch.randn(5, 3))
    samples = layers.sampling.as_samples(part, layers.sampling.sample_outputs(part, output, None, 0))
    torch.testing.assert_close(samples[0], output)


def test_a_penalty_on_filters_names_the_layers_that_have_some():
    model = network()
    with pytest.raises(LayerSelectionError, match=r"did you mean 'projector\.\*'"):
        layers.select_parts(model, "projector")
    with pytest.raises(ConfigurationError, match="looks at filters"):
        layers.select_parts(model, OutputsOf("projector"))
    module = module_of(PACKAGES[0], model)
    with pytest.raises(LayerSelectionError, match=r"net\.projector"):
        make_trainer(OrthogonalityCallback(Gram(), layers="net.projector")).fit(module, [torch.zeros(1)])


def test_options_that_need_the_filters_are_rejected_by_name():
    module = module_of(PACKAGES[0], network())
    callback = OrthogonalityCallback(LSH(detach_inputs=True), layers="net.projector")
    with pytest.raises(UnsupportedLayerError, match=r"'net\.projector'.*detach_inputs=False"):
        make_trainer(callback).fit(module, [torch.zeros(1)])
    callback = OrthogonalityCallback(LSH(), layers="net.projector", sync="global")
    with pytest.raises(ConfigurationError, match=r"sync='global'.*'net\.projector'.*sync='local'"):
        make_trainer(callback).fit(module_of(PACKAGES[0], network()), [torch.zeros(1)])


def test_response_angles_of_a_block_are_measured_without_a_penalty():
    module = module_of(PACKAGES[0], network())
    reference = copy.deepcopy(module.net)
    monitor = AngleMonitor("net.projector", every_n_steps=1)
    make_trainer([monitor]).fit(module, [torch.zeros(1)])
    found = monitor.responses["net.projector"]
    expected = OF.response_statistics(reference(views()[0]))
    assert found.n == 7
    assert math.isclose(found.mean, expected.mean, rel_tol=1e-5)


def test_the_report_has_the_response_angles_of_outputs_and_none_of_filters():
    module = module_of(PACKAGES[0], network())
    callback = OrthogonalityCallback(
        OnOutputs(decov), layers=["net.projector", "net.backbone.0"], log_every_n_steps=1,
        monitor=AngleMonitor(["net.projector", "net.backbone.0"], every_n_steps=1, spectra_every_n_steps=1),
    )  # fmt: skip
    make_trainer(callback).fit(module, [torch.zeros(1)])
    filters, outputs = callback.angle_report()
    assert [filters["name"], outputs["name"]] == ["net.backbone.0", "net.projector"]
    assert list(filters) == list(outputs)
    assert outputs["response_std"] == callback.monitor.responses["net.projector"].std
    assert outputs["response_samples"] == 7
    of_filters = [key for key in outputs if key != "name" and not key.startswith("response")]
    assert len(of_filters) == 17
    assert all(outputs[key] is None and filters[key] is not None for key in of_filters)
