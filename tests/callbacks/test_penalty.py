"""The gradient after one step equals that of task loss + weight x penalty computed by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.regularizers import LSH, Gram, Regularizer, Sampling
from tests.callbacks.helpers import (
    ALL_ROWS,
    PACKAGES,
    boring,
    images,
    lsh_penalty,
    make_trainer,
    twin,
    view_of,
    vision_module,
)


def reference_penalties(module, x, penalty=lsh_penalty):
    """LSH penalties of the three layers of ``vision_module`` from an explicit forward, and the task loss."""
    conv1, _, conv2, norm, flatten, dropout, linear = module.net
    z1 = F.conv2d(x, conv1.weight, None, padding=1)
    h1 = F.relu(z1 + conv1.bias[:, None, None]) if conv1.bias is not None else F.relu(z1)
    z2 = F.conv2d(h1, conv2.weight, None, groups=2)
    h2 = flatten(norm(z2 + conv2.bias[:, None, None] if conv2.bias is not None else z2))
    torch.manual_seed(77)
    h2 = dropout(h2)
    z3 = F.linear(h2, linear.weight)
    loss = (z3 + linear.bias).square().mean()

    def rows(z):
        return z.movedim(1, -1).flatten(0, -2)

    grouped = rows(z2).unflatten(1, (2, 4)).transpose(0, 1)
    return loss, [penalty(rows(z1)), penalty(grouped), penalty(z3)]


def gradients(module, loss):
    return torch.autograd.grad(loss, list(module.parameters()))


class ReseedBeforeStep:
    """Dropout draws from the global state: give it the state that the reference gives."""

    @staticmethod
    def attach(module):
        original = module.loss

        def loss(batch):
            torch.manual_seed(77)
            return original(batch)

        module.loss = loss
        return module


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("output", ["tensor", "dict"])
@pytest.mark.parametrize("bias", [True, False])
def test_gradient_equals_task_loss_plus_weighted_penalty(package, output, bias):
    module = vision_module(package, output=output, bias=bias).double()
    reference = twin(module)
    callback = OrthogonalityCallback(ALL_ROWS, weight=0.3)
    data = images()
    data.dataset.tensors = (data.dataset.tensors[0].double(),)
    trainer = make_trainer(callback, package, precision="64-true")
    trainer.fit(ReseedBeforeStep.attach(module), data)
    loss, penalties = reference_penalties(reference, data.dataset.tensors[0])
    for found, expected in zip(module.gradients, gradients(reference, loss + 0.3 * sum(penalties)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(callback.penalty, sum(penalties).detach())


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("regularizer", [LSH(), Gram(), LSH(probe="exact"), LSH(probe="gaussian")])
def test_boring_model_under_every_regularizer(package, regularizer):
    model = boring(package).BoringModel()
    reference = twin(model)
    seen = []
    model.on_after_backward = lambda: seen.append(model.layer.weight.grad.clone())
    seeds = []
    spy = copy.copy(regularizer)
    spy.penalties = lambda views: seeds.extend(view.seed for view in views) or regularizer.penalties(views)
    callback = OrthogonalityCallback(spy, weight=0.7)
    data = torch.utils.data.DataLoader(boring(package).RandomDataset(32, 16), batch_size=16)
    make_trainer(callback, package).fit(model, data)
    x = next(iter(data))
    output = reference(x)
    penalty = regularizer.penalty(view_of(reference.layer, output, seeds[0]))
    expected = torch.autograd.grad(reference.loss(output) + 0.7 * penalty, reference.layer.weight)[0]
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(callback.penalty, penalty.detach())


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("regularizer", [Gram(), LSH(detach_inputs=True)])
@pytest.mark.parametrize(
    "reparametrize", [nn.utils.weight_norm, lambda m: nn.utils.prune.l1_unstructured(m, "weight", 0.5)]
)
def test_a_weight_made_by_a_forward_hook_is_that_of_the_counted_run(regularizer, reparametrize):
    class Evaluating(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = reparametrize(nn.Linear(32, 4))

        def training_step(self, batch, batch_idx):
            loss = 0 * self.layer(batch).sum()
            with torch.no_grad():
                self.layer(batch)
            return loss

        def on_after_backward(self):
            self.found = [p.grad.abs().sum() for n, p in self.named_parameters() if "bias" not in n]

    import torch.nn.utils.prune

    model = Evaluating()
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    make_trainer(OrthogonalityCallback(regularizer)).fit(model, data)
    assert any(found > 0 for found in model.found)


def test_a_loss_that_is_no_tensor_is_left_to_lightning():
    class Odd(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            return 3.0

    with pytest.raises(Exception, match="must return a Tensor"):
        make_trainer(OrthogonalityCallback()).fit(Odd())


def test_penalties_that_join_no_backward_are_reported_once():
    class DirectBackward(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.layer(batch).square().mean().backward()

    with pytest.warns(UserWarning, match="in no backward pass.*manual_backward") as caught:
        make_trainer(OrthogonalityCallback(), max_steps=-1, max_epochs=1, limit_train_batches=3).fit(DirectBackward())
    assert sum("in no backward pass" in str(w.message) for w in caught) == 1


def test_detached_inputs_keep_the_gradient_to_the_filters():
    module = vision_module().double()
    reference = twin(module)
    data = images()
    data.dataset.tensors = (data.dataset.tensors[0].double(),)
    callback = OrthogonalityCallback(
        LSH(max_samples=None, detach_inputs=True), layers="net.2", weight=0.3, log_every_n_steps=None
    )
    make_trainer(callback, precision="64-true").fit(ReseedBeforeStep.attach(module), data)
    loss, penalties = reference_penalties(reference, data.dataset.tensors[0])
    task = gradients(reference, loss)
    loss, penalties = reference_penalties(reference, data.dataset.tensors[0])
    whole = gradients(reference, loss + 0.3 * penalties[1])
    names = [name for name, _ in reference.named_parameters()]
    for name, found, alone, both in zip(names, module.gradients, task, whole, strict=True):
        expected = both if name == "net.2.weight" else alone
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11, msg=name)


def test_a_layer_that_runs_twice_counts_the_mean_of_its_runs():
    class Twice(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean() + self.layer(2 * batch + 1).square().mean()

    model = Twice()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(ALL_ROWS)
    make_trainer(callback).fit(model, data)
    x = next(iter(data))
    each = [lsh_penalty(reference.layer(x) - reference.layer.bias) for x in (x, 2 * x + 1)]
    torch.testing.assert_close(callback.penalty, torch.stack(each).mean().detach())
    gram = OrthogonalityCallback(Gram())
    make_trainer(gram).fit(twin(reference), data)
    torch.testing.assert_close(gram.penalty, OF.gram_penalty(reference.layer.weight).detach())


@pytest.mark.parametrize("regularizer", [LSH(), Gram()])
def test_only_runs_that_train_count(regularizer):
    class Selective(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.frozen = nn.Linear(32, 4).requires_grad_(False)
            self.watched = nn.Linear(32, 4)
            self.skipped = nn.Linear(32, 4)

        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.watched(batch)
            return self.layer(batch).square().mean() + self.frozen(batch).sum() * 0

    model = Selective()
    reference = twin(model)
    callback = OrthogonalityCallback(regularizer)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    with pytest.warns(UserWarning, match="no forward of 'skipped' was seen"):
        make_trainer(callback).fit(model, data)
    output = reference.layer(next(iter(data)))
    torch.testing.assert_close(callback.penalty, regularizer.penalty(view_of(reference.layer, output)).detach())


def test_frozen_batch_norm_and_eval_mode_do_not_matter():
    class Frozen(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            self.layer.eval()
            return super().training_step(batch, batch_idx)

    callback = OrthogonalityCallback()
    make_trainer(callback).fit(Frozen())
    assert callback.penalty is not None


def test_attention_output_projection_is_reported_by_name():
    class Attentive(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def training_step(self, batch, batch_idx):
            batch = batch[:, None]
            return self.layer(self.attention(batch, batch, batch)[0]).square().mean()

    with pytest.warns(UserWarning, match=r"'attention\.out_proj'.*exclude=") as caught:
        make_trainer(OrthogonalityCallback(), max_steps=-1, max_epochs=3, limit_train_batches=2).fit(Attentive())
    assert sum("out_proj" in str(w.message) for w in caught) == 1


def test_none_stays_none():
    module = vision_module(output="none")
    before = twin(module).state_dict()
    make_trainer(OrthogonalityCallback()).fit(module, images())
    for name, value in module.named_parameters():
        assert torch.equal(value, before[name])


def test_own_regularizer_is_one_small_class():
    class Coherence(Regularizer):
        def penalty(self, layer):
            return OF.pairwise_cosines(layer.filters).triu(diagonal=1).pow(4).sum()

    callback = OrthogonalityCallback(Coherence(), weight=2.0)
    module = vision_module()
    expected = sum(
        OF.pairwise_cosines(w).triu(diagonal=1).pow(4).sum()
        for w in (module.net[0].weight.flatten(1), module.net[2].weight.view(2, 4, -1), module.net[6].weight)
    )
    make_trainer(callback).fit(module, images())
    torch.testing.assert_close(callback.penalty, expected.detach())


@pytest.mark.parametrize("wrong", [lambda values: values.square(), lambda values: 0.5])
def test_a_penalty_that_is_no_scalar_tensor_is_refused(wrong):
    class Own(Regularizer):
        def penalty(self, layer):
            return wrong(layer.filters)

    with pytest.raises(ConfigurationError, match=r"Own\.penalty gave .* for layer 'net\.0'.*scalar tensor"):
        make_trainer(OrthogonalityCallback(Own())).fit(vision_module(), images())
    Own.sampling = "output"
    with pytest.raises(ConfigurationError, match=r"Own\.sampling='output'"):
        OrthogonalityCallback(Own())


def test_user_regularizer_that_sees_outputs():
    class Correlation(Regularizer):
        sampling = Sampling(max_samples=8)

        def penalty(self, layer):
            assert layer.outputs.shape[-2] <= 8
            return OF.pairwise_cosines(layer.outputs.mT).triu(diagonal=1).square().sum()

    callback = OrthogonalityCallback(Correlation())
    make_trainer(callback).fit(vision_module(), images())
    assert callback.penalty > 0


@pytest.mark.parametrize("compile_net", [lambda net: torch.compile(net, backend="aot_eager"), "in place"])
def test_a_compiled_network_gets_the_same_penalty_and_gradient(compile_net, request):
    if compile_net == "in place":
        request.getfixturevalue("one_graph_of_a_container")

    def run(compiled):
        module = vision_module(inplace=False)
        module.net[5].p = 0.0
        if compiled and compile_net == "in place":
            module.net.compile(backend="aot_eager")
        elif compiled:
            module.net = compile_net(module.net)
        callback = OrthogonalityCallback(LSH(max_samples=32), weight=1e-3, log_every_n_steps=None)
        make_trainer(callback, max_steps=3).fit(module, images(12))
        return callback.penalty, module.gradients, [layer["name"] for layer in callback.angle_report()]

    (penalty, expected, names), (found_penalty, found, found_names) = run(False), run(True)
    assert names == found_names
    torch.testing.assert_close(found_penalty, penalty, rtol=1e-3, atol=1e-4)
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-3, atol=1e-4)
