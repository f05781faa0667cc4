"""Penalties and angles of a module's parts in training."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from ortho_lightning import LSH, AngleMonitor, Gram, OrthogonalityCallback, layers
from ortho_lightning import functional as OF
from ortho_lightning.layers.filters import trains, weight_parameters
from tests.callbacks.helpers import PACKAGES, make_trainer, recording


def module_of(package, network, inputs):
    def loss(net):
        output = net(*inputs)
        return (output if isinstance(output, torch.Tensor) else output[0]).square().mean()

    return recording(network, loss, package)


def attention_weights(net):
    return [*net.in_proj_weight.chunk(3), net.out_proj.weight]


def lstm_weights(net):
    return [gate for weight in (net.weight_ih_l0, net.weight_hh_l0) for gate in weight.chunk(4)]


CASES = {
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        [torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))] * 3,
        attention_weights,
    ),
    "lstm": (
        lambda: nn.LSTM(4, 3),
        [torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1))],
        lstm_weights,
    ),
    "embedding": (lambda: nn.Embedding(6, 4), [torch.tensor([[0, 2], [5, 2]])], lambda net: [net.weight]),
    "sparse embedding": (
        lambda: nn.Embedding(6, 4, sparse=True),
        [torch.tensor([[0, 2], [5, 2]])],
        lambda net: [net.weight],
    ),
}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("case", CASES)
def test_a_penalty_on_the_weights_of_functionally_called_modules_is_that_of_their_kernels(case, package):
    make, inputs, weights = CASES[case]
    torch.manual_seed(3)
    module = module_of(package, make(), inputs)
    reference = copy.deepcopy(module.net)
    callback = OrthogonalityCallback(Gram(), layers="net*", weight=0.5, log_every_n_steps=1)
    make_trainer(callback, package).fit(module, [torch.zeros(1)])
    output = reference(*inputs)
    penalties = [OF.gram_penalty(weight.unsqueeze(0)) for weight in weights(reference)]
    penalty = torch.stack(penalties).sum()
    torch.testing.assert_close(callback.penalty, penalty.detach())
    assert len(callback.angle_report()) == len(penalties)
    task = (output if isinstance(output, torch.Tensor) else output[0]).square().mean()
    (task + 0.5 * penalty).backward()
    for name, parameter in reference.named_parameters():
        found, expected = module.gradients[f"net.{name}"], parameter.grad
        torch.testing.assert_close(found.to_dense(), expected.to_dense())


def test_outputs_of_the_attention_projection_are_penalized_without_its_bias():
    torch.manual_seed(3)
    make, inputs, _ = CASES["attention"]
    module = module_of(PACKAGES[0], make(), inputs)
    nn.init.normal_(module.net.out_proj.bias)
    reference = copy.deepcopy(module.net)
    callback = OrthogonalityCallback(LSH(max_samples=None), layers="net:out", log_every_n_steps=1)
    make_trainer(callback).fit(module, [torch.zeros(1)])
    outputs = (reference(*inputs)[0] - reference.out_proj.bias).flatten(0, 1)
    torch.testing.assert_close(callback.penalty, OF.lsh_penalty(outputs.detach(), lambda1=0.0))
    assert callback.monitor.responses["net:out"].n == 15


def test_angles_and_gradient_ratios_of_parts_have_their_names():
    make, inputs, _ = CASES["attention"]
    module = module_of(PACKAGES[0], make(), inputs)
    callback = OrthogonalityCallback(Gram(), layers="net:[qk]", log_every_n_steps=1, log_gradient_ratio_every_n_steps=1)
    trainer = make_trainer(callback)
    trainer.fit(module, [torch.zeros(1)])
    logged = trainer.callback_metrics
    for scalar in ("penalty", "angle_std", "gradient_ratio"):
        assert {f"ortho/{scalar}/net:q", f"ortho/{scalar}/net:k"} <= logged.keys()
    assert [row["name"] for row in callback.angle_report()] == ["net:q", "net:k"]


def test_the_monitor_alone_measures_parts_and_leaves_out_responses_that_are_not_seen():
    make, inputs, _ = CASES["attention"]
    module = module_of(PACKAGES[0], make(), inputs)
    monitor = AngleMonitor("net", every_n_steps=1)
    make_trainer([monitor]).fit(module, [torch.zeros(1)])
    assert list(monitor.measured) == ["net:q", "net:k", "net:v", "net:out"]
    assert list(monitor.responses) == ["net:out"]


# ------------------------------------------------------------------------------------ reparametrized, pruned and tied


def test_parametrized_parts_are_effective_and_train_with_what_they_are_made_from():
    module = nn.MultiheadAttention(8, 2)
    nn.utils.parametrizations.spectral_norm(module, "in_proj_weight")
    module.eval()
    part = layers.parts_of(module)["k"]
    torch.testing.assert_close(layers.layer_filters(part), module.in_proj_weight[None, 8:16])
    original = module.parametrizations.in_proj_weight.original
    assert any(each is original for each in weight_parameters(part))
    assert trains(part)
    original.requires_grad_(False)
    assert not trains(part)
    assert layers.filter_counts(part) == (1, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [
        lambda net: prune.l1_unstructured(net, "weight_hh_l0", 0.5),
        lambda net: nn.utils.weight_norm(net, "weight_hh_l0"),
        lambda net: nn.utils.parametrizations.weight_norm(net, "weight_hh_l0"),
        lambda net: nn.utils.parametrizations.orthogonal(net, "weight_hh_l0"),
    ],
    ids=["pruned", "weight norm", "weight norm as parametrization", "orthogonal"],
)
def test_the_penalty_of_a_reparametrized_gate_reaches_what_its_weight_is_made_from(change):
    def make():  # torch copies no pruned nets
        torch.manual_seed(1)
        net = nn.GRU(4, 3)
        change(net)
        return net

    inputs = [torch.randn(5, 2, 4)]
    module, reference = module_of(PACKAGES[0], make(), inputs), make()
    callback = OrthogonalityCallback(Gram(), layers="net:hh*.z", weight=1.0, log_every_n_steps=1)
    make_trainer(callback).fit(module, [torch.zeros(1)])
    output = reference(*inputs)[0].square().mean()
    penalty = OF.gram_penalty(reference.weight_hh_l0[None, 3:6])
    torch.testing.assert_close(callback.penalty, penalty.detach())
    (output + penalty).backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(module.gradients[f"net.{name}"], parameter.grad)


def test_pruned_projections_keep_their_mask_and_their_zero_filters_have_no_gradient():
    torch.manual_seed(1)
    inputs = CASES["attention"][1]
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    mask = torch.ones(24, 8)
    mask[3] = 0
    prune.custom_from_mask(net, "in_proj_weight", mask)
    module = module_of(PACKAGES[0], net, inputs)
    callback = OrthogonalityCallback(LSH(probe="exact"), layers="net:q", log_every_n_steps=1)
    make_trainer(callback, max_steps=2).fit(module, [torch.zeros(1)])
    gradient = module.gradients["net.in_proj_weight_orig"]
    assert gradient.isfinite().all()
    assert not gradient[3].any()
    assert gradient[:3].any()
    assert not layers.layer_filters(layers.parts_of(net)["q"])[0, 3].any()


def test_tied_weights_are_penalized_once_for_each_layer_that_holds_them():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x):
            return self.head(self.words(x))

    torch.manual_seed(1)
    inputs = [torch.tensor([[0, 2], [5, 2]])]
    module = module_of(PACKAGES[0], Tied(), inputs)
    reference = copy.deepcopy(module.net)
    callback = OrthogonalityCallback(Gram(), layers=["net.words", "net.head"], weight=1.0, log_every_n_steps=1)
    make_trainer(callback).fit(module, [torch.zeros(1)])
    penalty = 2 * OF.gram_penalty(reference.words.weight[None])
    torch.testing.assert_close(callback.penalty, penalty.detach())
    (reference(*inputs).square().mean() + penalty).backward()
    torch.testing.assert_close(module.gradients["net.words.weight"], reference.words.weight.grad)
    only_once = OrthogonalityCallback(Gram(), layers="net.head", weight=1.0, log_every_n_steps=1)
    make_trainer(only_once).fit(module_of(PACKAGES[0], reference, inputs), [torch.zeros(1)])
    torch.testing.assert_close(only_once.penalty, penalty.detach() / 2)
