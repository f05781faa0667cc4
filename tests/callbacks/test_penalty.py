"""The gradient after one step equals that of task loss + weight x penalty computed by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError, UnsupportedLayerError
from ortho_lightning.regularizers import LSH, Gram, LayerView, Regularizer, Sampling
from ortho_lightning.schedules import LinearWarmup
from tests.callbacks.helpers import PACKAGES, boring, images, lsh_penalty, make_trainer, twin, vision_module

ALL_ROWS = LSH(max_samples=None)


def view_of(layer, output, seed=0):
    return LayerView(filters=layer.weight.unsqueeze(0), outputs=(output - layer.bias).unsqueeze(0), seed=seed)


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


@pytest.mark.parametrize("package", PACKAGES)
def test_manual_optimization_joins_the_next_backward(package):
    model = boring(package).ManualOptimBoringModel()
    reference = twin(model)
    seen = []
    data = torch.utils.data.DataLoader(boring(package).RandomDataset(32, 16), batch_size=16)
    optimizer_step = torch.optim.SGD.step

    def step(self, *args, **kwargs):
        seen.append(model.layer.weight.grad.clone())
        return optimizer_step(self, *args, **kwargs)

    torch.optim.SGD.step = step
    try:
        make_trainer(OrthogonalityCallback(ALL_ROWS, weight=0.7), package).fit(model, data)
    finally:
        torch.optim.SGD.step = optimizer_step
    output = reference(next(iter(data)))
    penalty = lsh_penalty(output - reference.layer.bias)
    expected = torch.autograd.grad(reference.loss(output) + 0.7 * penalty, reference.layer.weight)[0]
    torch.testing.assert_close(seen[0], expected)


def test_each_manual_backward_carries_what_ran_since_the_last_one():
    class TwoBackwards(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.other = nn.Linear(32, 3)
            self.seen = []

        def training_step(self, batch, batch_idx):
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.layer(batch).square().mean())
            self.seen.append((self.layer.weight.grad.clone(), self.other.weight.grad))
            self.layer.weight.grad = None
            self.manual_backward(self.other(batch).square().mean())
            self.seen.append((self.layer.weight.grad, self.other.weight.grad.clone()))
            optimizer.step()

    model = TwoBackwards()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    make_trainer(OrthogonalityCallback(ALL_ROWS, weight=0.7)).fit(model, data)
    x = next(iter(data))
    for layer, found in ((reference.layer, model.seen[0][0]), (reference.other, model.seen[1][1])):
        output = layer(x)
        penalized = output.square().mean() + 0.7 * lsh_penalty(output - layer.bias)
        torch.testing.assert_close(found, torch.autograd.grad(penalized, layer.weight)[0])
    assert model.seen[0][1] is None
    assert model.seen[1][0] is None


def test_discriminator_penalty_stays_out_of_the_generator_step():
    class GAN(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Linear(32, 8)
            self.discriminator = nn.Linear(8, 4)
            self.grads = {}

        def training_step(self, batch, batch_idx):
            g, d = self.optimizers()
            self.toggle_optimizer(g)
            g.zero_grad()
            self.manual_backward(self.discriminator(self.generator(batch)).mean())
            self.grads["generator"] = self.generator.weight.grad.clone()
            g.step()
            self.untoggle_optimizer(g)
            self.toggle_optimizer(d)
            d.zero_grad()
            self.fake = self.generator(batch).detach()
            self.manual_backward(self.discriminator(self.fake).square().mean())
            self.grads["discriminator"] = self.discriminator.weight.grad.clone()
            self.untoggle_optimizer(d)
            d.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.generator, self.discriminator)]

    model = GAN()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(ALL_ROWS, layers="discriminator", weight=5.0)
    make_trainer(callback, max_steps=-1, max_epochs=1).fit(model, data)
    x = next(iter(data))
    plain = reference.discriminator(reference.generator(x)).mean()
    torch.testing.assert_close(model.grads["generator"], torch.autograd.grad(plain, reference.generator.weight)[0])
    output = reference.discriminator(model.fake)
    penalized = output.square().mean() + 5.0 * lsh_penalty(output - reference.discriminator.bias)
    torch.testing.assert_close(
        model.grads["discriminator"], torch.autograd.grad(penalized, reference.discriminator.weight)[0]
    )
    assert callback.state_dict() == {"step": 1}  # one batch, though two optimizers stepped


@pytest.mark.parametrize("regularizer", [ALL_ROWS, Gram()])
def test_each_backward_of_a_gan_that_shares_its_fakes_carries_its_own_layers(regularizer):
    """Fakes are made once; the discriminator's step uses them detached, the generator's does not."""

    class Shared(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Linear(32, 8)
            self.discriminator = nn.Linear(8, 4)

        def training_step(self, batch, batch_idx):
            g, d = self.optimizers()
            fake = self.generator(batch)
            d.zero_grad()
            self.manual_backward(self.discriminator(fake.detach()).square().mean())
            self.first = (self.discriminator.weight.grad.clone(), self.generator.weight.grad)
            g.zero_grad()
            self.manual_backward(self.discriminator(fake).mean())
            self.second = self.generator.weight.grad.clone()

        def configure_optimizers(self):
            return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.generator, self.discriminator)]

    model = Shared()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(regularizer, layers=["generator", "discriminator"], weight=0.5)
    make_trainer(callback, max_steps=-1, max_epochs=1).fit(model, data)

    def penalty(layer, output):
        return 0.5 * regularizer.penalty(view_of(layer, output))

    g, d = reference.generator, reference.discriminator
    fake = g(next(iter(data)))
    output = d(fake.detach())
    expected = torch.autograd.grad(output.square().mean() + penalty(d, output), d.weight)[0]
    torch.testing.assert_close(model.first[0], expected)
    assert model.first[1] is None
    output = d(fake)
    expected = torch.autograd.grad(output.mean() + penalty(d, output) + penalty(g, fake), g.weight)[0]
    torch.testing.assert_close(model.second, expected)


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


def test_a_pass_without_gradients_before_a_checkpointed_one_is_no_reentrant_checkpointing():
    from torch.utils.checkpoint import checkpoint

    class Teaching(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                target = self.layer(batch)
            return (checkpoint(self.layer, batch.requires_grad_(), use_reentrant=False) - target - 1).square().mean()

    callback = OrthogonalityCallback()
    make_trainer(callback).fit(Teaching())
    assert callback.penalty is not None


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


def test_recomputation_by_checkpointing_is_not_a_second_run():
    from torch.utils.checkpoint import checkpoint

    def run(checkpointed):
        module = vision_module(inplace=False).double()
        module.net[5].p = 0.0
        if checkpointed:
            net = module.net
            module.loss = lambda batch: (
                net[6](checkpoint(net[:6], batch[0].requires_grad_(), use_reentrant=False)).square().mean()
            )
        data = images()
        data.dataset.tensors = (data.dataset.tensors[0].double(),)
        callback = OrthogonalityCallback(LSH(max_samples=20), weight=0.3)
        make_trainer(callback, precision="64-true").fit(module, data)
        return callback.penalty, module.gradients

    (penalty, expected), (again, found) = run(False), run(True)
    assert torch.equal(penalty, again)
    for left, right in zip(expected, found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("manual", [False, True])
def test_reentrant_checkpointing_is_refused_by_name(manual):
    from torch.utils.checkpoint import checkpoint

    class Reentrant(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = not manual

        def training_step(self, batch, batch_idx):
            loss = checkpoint(self.layer, batch.requires_grad_(), use_reentrant=True).square().mean()
            if manual:
                self.manual_backward(loss)
            return loss

    model = Reentrant()
    with pytest.raises(UnsupportedLayerError, match=r"'layer'.*use_reentrant=False"):
        make_trainer(OrthogonalityCallback(), max_steps=-1, max_epochs=1).fit(model)
    assert not model.layer._forward_hooks


def test_manual_optimization_with_checkpointing_counts_each_run_once():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(boring().BoringModel):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            out = checkpoint(self.layer, batch.requires_grad_(), use_reentrant=False)
            self.manual_backward(out.square().mean())

    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*in no backward pass.*")
        make_trainer(OrthogonalityCallback(), max_steps=-1, max_epochs=1, limit_train_batches=2).fit(Checkpointed())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lazy_interval_and_schedule_follow_optimizer_steps(accumulate):
    weights, seeds = [], []

    class Spy(LSH):
        def penalty(self, layer):
            seeds.append(layer.seed)
            return super().penalty(layer)

    class Model(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            self.plain = super().training_step(batch, batch_idx)["loss"].detach()
            return {"loss": self.layer(batch).square().mean(), "plain": self.layer(batch).square().mean().detach()}

        def on_before_backward(self, loss):
            pass

    def schedule(step, total):
        weights.append((step, total))
        return 1.0

    callback = OrthogonalityCallback(Spy(), every_n_steps=2, schedule=schedule, log_every_n_steps=None)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=2)
    trainer = make_trainer(callback, max_steps=4, accumulate_grad_batches=accumulate)
    trainer.fit(Model(), data)
    assert callback.state_dict() == {"step": 4}
    steps = [step for step, _ in weights[1:]]  # the first call checks the schedule before training
    assert steps == [step for step in (0, 2) for _ in range(accumulate)]
    assert {total for _, total in weights} == {4}
    assert len(set(seeds)) == 2  # micro-batches of a window share their sample


def test_lazy_penalty_is_multiplied_by_its_interval():
    model = boring().BoringModel()
    reference = twin(model)
    seen = []
    model.on_after_backward = lambda: seen.append(model.layer.weight.grad.clone())
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    make_trainer(OrthogonalityCallback(Gram(), weight=0.1, every_n_steps=3)).fit(model, data)
    output = reference(next(iter(data)))
    loss = reference.loss(output) + 3 * 0.1 * OF.gram_penalty(reference.layer.weight)
    torch.testing.assert_close(seen[0], torch.autograd.grad(loss, reference.layer.weight)[0])


def test_warmup_begins_without_penalty():
    model = boring().BoringModel()
    plain = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(weight=100.0, schedule=LinearWarmup(steps=10))
    make_trainer(callback).fit(model, data)
    make_trainer().fit(plain, data)
    assert torch.equal(model.layer.weight, plain.layer.weight)
    assert callback.penalty is not None


@pytest.mark.parametrize(("setting", "value"), [("norm", 0.5), ("value", 0.01)])
def test_clipping_and_accumulation_equal_a_hand_written_loop(setting, value):
    model = boring().BoringModel()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=4)
    callback = OrthogonalityCallback(ALL_ROWS, weight=0.7)
    make_trainer(callback, accumulate_grad_batches=4, gradient_clip_val=value, gradient_clip_algorithm=setting).fit(
        model, data
    )
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for x in data:
        output = reference(x)
        ((reference.loss(output) + 0.7 * lsh_penalty(output - reference.layer.bias)) / 4).backward()
    if setting == "norm":
        torch.nn.utils.clip_grad_norm_(reference.parameters(), value)
    else:
        torch.nn.utils.clip_grad_value_(reference.parameters(), value)
    optimizer.step()
    torch.testing.assert_close(model.layer.weight, reference.layer.weight)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed"])
def test_mixed_precision_scales_once_and_measures_in_float32(precision):
    plugins = []
    if precision == "16-mixed":
        from pytorch_lightning.plugins import MixedPrecision

        plugins = [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=256.0))]

    class Model(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            return self.layer(1e4 * batch).float().square().mean() * 0

        def on_before_optimizer_step(self, optimizer):
            self.found = self.layer.weight.grad.clone()  # unscaled by now

    model = Model()
    reference = twin(model)
    data = torch.utils.data.DataLoader(boring().RandomDataset(32, 16), batch_size=16)
    callback = OrthogonalityCallback(LSH(max_samples=None, normalize="rms"), weight=0.7)
    options = {"plugins": plugins} if plugins else {"precision": precision}
    make_trainer(callback, **options).fit(model, data)
    assert callback.penalty.dtype == torch.float32
    assert callback.penalty.isfinite()
    output = 1e4 * next(iter(data)) @ reference.layer.weight.T
    penalty = 0.7 * lsh_penalty(OF.rms_normalize(output))
    expected = torch.autograd.grad(penalty, reference.layer.weight)[0]
    found = model.found.float()
    # eight bits of the outputs are left, not the 256-fold of a scale applied twice or never taken back
    assert (found - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "16-mixed", "64-true"])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_every_precision_equals_a_hand_written_loop_with_outputs_of_ten_thousand(precision, accumulate):
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    true = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)

    class Model(boring().BoringModel):
        def training_step(self, batch, batch_idx):
            self.outputs = self.layer(batch)
            return self.outputs.float().square().mean() * 1e-10

        def on_before_optimizer_step(self, optimizer):
            self.gradient = self.layer.weight.grad.clone()  # unscaled by now

    torch.manual_seed(4)
    model = Model().to(true)
    reference = twin(model)
    x = 1.2e4 * torch.randn(accumulate, 8, 32, generator=torch.Generator().manual_seed(1)).to(true)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if precision == "16-mixed" else None
    options = {"precision": precision}
    if scaler is not None:
        from pytorch_lightning.plugins import MixedPrecision

        options = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}
    # the signs of outputs so large are all saturated, but for those divided by their root mean square
    callback = OrthogonalityCallback(LSH(max_samples=None, normalize="rms", gamma=1.0), weight=1.0)
    data = torch.utils.data.DataLoader(x, batch_size=None)
    make_trainer(callback, max_steps=1, accumulate_grad_batches=accumulate, **options).fit(model, data)
    for batch in x:
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            output = reference.layer(batch)
        observed = output.to(torch.promote_types(output.dtype, torch.float32))
        observed = observed - reference.layer.bias.to(observed.dtype)
        penalty = lsh_penalty(OF.rms_normalize(observed), gamma=1.0)
        (output.float().square().mean() * 1e-10 + penalty).div(accumulate).backward()
    assert model.outputs.abs().max() > 1e4
    assert callback.penalty.dtype == torch.promote_types(true, torch.float32)
    assert model.gradient.isfinite().all()
    error = (model.gradient - reference.layer.weight.grad).norm() / reference.layer.weight.grad.norm()
    assert error < {"64-true": 1e-9}.get(precision, 0.01)


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
