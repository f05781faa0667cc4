"""Other features of Lightning in play: the penalty stays what it is, under both package names."""

import copy
import gc
import importlib
import pickle

import pytest
import torch
from torch import nn

from ortho_lightning import OrthogonalityCallback
from ortho_lightning import functional as OF
from ortho_lightning.regularizers import LSH, Gram, LayerView
from tests.callbacks.helpers import ALL_ROWS, PACKAGES, boring, images, lsh_penalty, make_trainer, twin, vision_module

pytestmark = pytest.mark.parametrize("package", PACKAGES)


def rows(package, count=16, batch_size=16):
    return torch.utils.data.DataLoader(boring(package).RandomDataset(32, count), batch_size=batch_size)


def callbacks_of(package):
    return importlib.import_module(f"{package}.callbacks")


def weights(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def penalized(layer, x, weight):
    output = layer(x)
    return output.square().mean() + weight * lsh_penalty(output - layer.bias)


# ----------------------------------------------------------------------------------------------------------- finders


def test_finders_see_the_task_loss_only_and_leave_nothing(package):
    tuner = importlib.import_module(f"{package}.tuner.tuning").Tuner

    def suggestion(callbacks):
        torch.manual_seed(2)
        module = vision_module(package)
        module.lr = module.batch_size = 2
        module.net[5].p = 0.0
        trainer = make_trainer(callbacks, package, max_steps=20)
        found = tuner(trainer).lr_find(module, images(64), num_training=12, min_lr=1e-5, max_lr=1e-2)
        return found.results["loss"], module

    plain, _ = suggestion([])
    callback = OrthogonalityCallback(weight=100.0)
    found, module = suggestion([callback])
    assert found == plain
    assert callback.penalty is None
    assert "training_step" not in module.__dict__

    class Sized(boring(package).BoringModel):
        batch_size = 2

        def train_dataloader(self):
            return torch.utils.data.DataLoader(boring(package).RandomDataset(32, 64), batch_size=self.batch_size)

    model = Sized()
    trainer = make_trainer(callback, package, max_steps=2)
    tuner(trainer).scale_batch_size(model, steps_per_trial=1, max_trials=2)
    assert callback.penalty is None
    trainer.fit(model)
    assert callback.penalty is not None


# ---------------------------------------------------------------------------------------- several closures in a step


class Sharpness(torch.optim.SGD):
    """Like SAM: the gradient of the step is that at a point uphill."""

    def step(self, closure):
        with torch.enable_grad():
            loss = closure()
        up = [0.05 * p.grad / p.grad.norm() for group in self.param_groups for p in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            torch._foreach_add_(parameters, up)
        with torch.enable_grad():
            closure()
        with torch.no_grad():
            torch._foreach_sub_(parameters, up)
        super().step()
        return loss


def quasi_newton(parameters):
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=4)


def sharpness_aware(parameters):
    return Sharpness(parameters, lr=0.1)


@pytest.mark.parametrize("make_optimizer", [quasi_newton, sharpness_aware])
def test_every_closure_of_a_step_carries_the_penalty_once(package, make_optimizer):
    class Closing(boring(package).BoringModel):
        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return make_optimizer(self.parameters())

    model, data = Closing(), rows(package, 32)
    reference = twin(model)
    callback = OrthogonalityCallback(ALL_ROWS, weight=0.3)
    make_trainer(callback, package, max_steps=2).fit(model, data)
    optimizer = make_optimizer(reference.parameters())
    for x in data:

        def closure(x=x):
            optimizer.zero_grad()
            loss = penalized(reference.layer, x, 0.3)
            loss.backward()
            return loss

        optimizer.step(closure)
    torch.testing.assert_close(model.layer.weight, reference.layer.weight)
    assert callback.state_dict() == {"step": 2}


# -------------------------------------------------------------------------------------------------- layers and weights


def test_layers_unfrozen_later_count_from_then_on(package):
    class Unfreeze(callbacks_of(package).BaseFinetuning):
        def freeze_before_training(self, pl_module):
            self.freeze(pl_module.net[:3])

        def finetune_function(self, pl_module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[:3], optimizer)

    seen = []

    class Watch(callbacks_of(package).Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append({name for name in trainer.callback_metrics if "penalty/net" in name})

    module = vision_module(package)
    ortho = OrthogonalityCallback(weight=0.01, log_every_n_steps=1)
    make_trainer([ortho, Unfreeze(), Watch()], package, max_steps=-1, max_epochs=2).fit(module, images(4))
    assert seen[0] == {"ortho/penalty/net.6"}
    assert seen[1] == {"ortho/penalty/net.0", "ortho/penalty/net.2", "ortho/penalty/net.6"}


class LowRank(nn.Module):
    """W + B A, of which A and B train, as in LoRA."""

    def __init__(self, out_features, in_features, rank=2):
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, in_features) / 4)
        self.b = nn.Parameter(torch.randn(out_features, rank) / 4)

    def forward(self, weight):
        return weight + self.b @ self.a


@pytest.mark.parametrize("regularizer", [ALL_ROWS, Gram(), LSH(max_samples=None, detach_inputs=True)])
def test_low_rank_updates_get_the_gradient_of_the_whole_weight(package, regularizer):
    class Adapted(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 4).requires_grad_(False)
            nn.utils.parametrize.register_parametrization(self.layer, "weight", LowRank(4, 32))
            self.layer.parametrizations.weight.original.requires_grad_(False)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    model, data = Adapted(), rows(package)
    reference = twin(model)
    make_trainer(OrthogonalityCallback(regularizer, weight=0.3), package).fit(model, data)
    x = next(iter(data))
    update = reference.layer.parametrizations.weight[0]
    weight = reference.layer.parametrizations.weight.original + update.b @ update.a
    output = x @ weight.T
    view = LayerView(filters=weight.unsqueeze(0), outputs=output.unsqueeze(0))
    loss = (output + reference.layer.bias).square().mean() + 0.3 * regularizer.penalty(view)
    for name in ("a", "b"):
        (gradient,) = torch.autograd.grad(loss, getattr(update, name), retain_graph=True)
        found = getattr(model.layer.parametrizations.weight[0], name)
        torch.testing.assert_close(found, getattr(update, name) - 0.1 * gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("regularizer", [ALL_ROWS, Gram()])
def test_layers_that_share_a_weight_each_count(package, regularizer):
    class Tied(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)
            self.second.weight = self.first.weight

        def training_step(self, batch, batch_idx):
            return self.layer(self.second(self.first(batch).tanh())).square().mean()

    model, data = Tied(), rows(package)
    reference = twin(model)
    callback = OrthogonalityCallback(regularizer, layers=["first", "second"], weight=0.3)
    make_trainer(callback, package).fit(model, data)
    first = reference.first(next(iter(data)))
    second = reference.second(first.tanh())
    if regularizer.sampling is not None:
        each = [lsh_penalty(first - reference.first.bias), lsh_penalty(second - reference.second.bias)]
    else:
        each = [OF.gram_penalty(reference.first.weight)] * 2
    loss = reference.layer(second).square().mean() + 0.3 * sum(each)
    (gradient,) = torch.autograd.grad(loss, reference.first.weight)
    torch.testing.assert_close(model.first.weight, reference.first.weight - 0.1 * gradient)
    torch.testing.assert_close(callback.penalty, sum(each).detach())


def test_a_branch_not_taken_in_a_step_adds_nothing_in_it(package):
    class Branching(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(32, 4), nn.Linear(32, 4)

        def training_step(self, batch, batch_idx):
            return (self.right if batch_idx % 2 else self.left)(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD([*self.left.parameters(), *self.right.parameters()], lr=0.1)

    model, data = Branching(), rows(package, 32)
    reference = twin(model)
    make_trainer(OrthogonalityCallback(ALL_ROWS, layers=["left", "right"], weight=0.3), package, max_steps=2).fit(
        model, data
    )
    for x, name in zip(data, ("left", "right"), strict=True):
        layer = getattr(reference, name)
        (gradient,) = torch.autograd.grad(penalized(layer, x, 0.3), layer.weight)
        torch.testing.assert_close(getattr(model, name).weight, layer.weight - 0.1 * gradient)


def test_lazy_layers_are_penalized_from_their_first_run(package):
    class Lazy(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(4)

        def training_step(self, batch, batch_idx):
            return self.layer(batch).square().mean()

        def on_before_optimizer_step(self, optimizer):
            self.kept, self.gradient = copy.deepcopy(self.layer), self.layer.weight.grad.clone()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model, data = Lazy(), rows(package)
    make_trainer(OrthogonalityCallback(ALL_ROWS, weight=0.3), package).fit(model, data)
    (gradient,) = torch.autograd.grad(penalized(model.kept, next(iter(data)), 0.3), model.kept.weight)
    torch.testing.assert_close(model.gradient, gradient)


# ------------------------------------------------------------------------------------------ beside other callbacks


def test_two_callbacks_beside_averaging_stopping_and_pruning_leave_the_same_as_a_loop_by_hand(package):
    others = callbacks_of(package)
    if not hasattr(others, "WeightAveraging"):
        pytest.skip("WeightAveraging came with Lightning 2.6")

    class Model(boring(package).BoringModel):
        def __init__(self):
            super().__init__()
            self.below = nn.Linear(32, 32)

        def training_step(self, batch, batch_idx):
            return self.layer(self.below(batch).tanh()).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def average(old, new, count):
        return 0.5 * old + 0.5 * new

    model, data = Model(), rows(package, 64)
    reference = twin(model)
    averaged = others.WeightAveraging(avg_fn=average)
    first = OrthogonalityCallback(ALL_ROWS, layers="below", weight=1.0, name="first", log_every_n_steps=1)
    second = OrthogonalityCallback(Gram(), layers="layer", weight=0.1, name="second")
    stop = others.EarlyStopping("first/penalty", check_on_train_epoch_end=True)
    trainer = make_trainer([first, averaged, stop, second], package, max_steps=-1, max_epochs=1)
    trainer.fit(model, data)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    expected = None
    for x in data:
        below = reference.below(x)
        loss = reference.layer(below.tanh()).square().mean()
        loss = loss + lsh_penalty(below - reference.below.bias) + 0.1 * OF.gram_penalty(reference.layer.weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        now = weights(reference)
        expected = now if expected is None else {name: average(expected[name], now[name], 0) for name in now}
    for name, value in expected.items():  # WeightAveraging swaps the average in at the end
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    stored = trainer._checkpoint_connector.dump_checkpoint()["callbacks"]
    assert [state for key, state in stored.items() if "OrthogonalityCallback" in key] == [{"step": 4}, {"step": 4}]


def test_the_penalty_goes_on_while_weights_are_averaged_stochastically(package):
    def run(callbacks):
        module = vision_module(package)
        module.net[5].p = 0.0
        swa = callbacks_of(package).StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
        trainer = make_trainer([swa, *callbacks], package, max_steps=-1, max_epochs=3)
        trainer.fit(module, images(8))
        assert "training_step" not in module.__dict__
        assert all(callback.state_dict() == {"step": trainer.global_step} for callback in callbacks)
        return weights(module)

    callback = OrthogonalityCallback(weight=0.01, log_every_n_steps=1)
    plain, off, on = run([]), run([OrthogonalityCallback(weight=0.0)]), run([callback])
    assert all(torch.equal(plain[name], off[name]) for name in plain)
    assert not torch.equal(plain["net.0.weight"], on["net.0.weight"])
    assert callback.penalty.isfinite()


@pytest.mark.parametrize("regularizer", [ALL_ROWS, Gram()])
def test_a_pruned_layer_gets_the_gradient_of_the_weight_that_is_left(package, regularizer):
    others = callbacks_of(package)

    class Keep(others.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.layer, self.batch = copy.deepcopy(pl_module.layer.state_dict()), batch

        def on_after_backward(self, trainer, pl_module):
            self.gradient = next(p.grad.clone() for n, p in pl_module.layer.named_parameters() if "weight" in n)

    model, keep = boring(package).BoringModel(), Keep()
    prune = others.ModelPruning("l1_unstructured", amount=0.5, make_pruning_permanent=False)
    callback = OrthogonalityCallback(regularizer, weight=0.3)
    make_trainer([prune, keep, callback], package, max_steps=-1, max_epochs=2).fit(model, rows(package))
    mask, original = keep.layer["weight_mask"], keep.layer["weight_orig"].requires_grad_()  # after the first epoch
    assert 0 < mask.mean() < 1
    output = keep.batch @ (mask * original).T
    view = LayerView(filters=(mask * original).unsqueeze(0), outputs=output.unsqueeze(0))
    loss = model.loss(output + keep.layer["bias_mask"] * keep.layer["bias_orig"]) + 0.3 * regularizer.penalty(view)
    torch.testing.assert_close(keep.gradient, torch.autograd.grad(loss, original)[0], rtol=1e-4, atol=1e-6)


# -------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("options", [{"overfit_batches": 1}, {"limit_val_batches": 1, "val_check_interval": 1}])
def test_nothing_accumulates_over_steps(package, options):
    counts = []

    class Count(callbacks_of(package).Callback):
        def on_train_batch_start(self, trainer, pl_module, *args):
            if trainer.global_step % 20 == 10:
                gc.collect()
                alive = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
                hooks = sum(len(part._forward_hooks) for part in pl_module.modules())
                counts.append((len(alive), sum(each.grad_fn is not None for each in alive), hooks))

    callback = OrthogonalityCallback(weight=0.01, log_every_n_steps=1, log_gradient_ratio_every_n_steps=1)
    make_trainer([callback, Count()], package, max_steps=60, **options).fit(boring(package).BoringModel())
    assert len(counts) == 3
    assert counts[1] == counts[2]


# ------------------------------------------------------------------------------------------------- copies and spawn


def test_callbacks_can_be_copied_and_pickled_before_and_after_use(package):
    callback = OrthogonalityCallback(Gram(), layers="layer", weight=0.3, name="mine")
    model = boring(package).BoringModel()
    for again in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert (again.weight, again.state_key) == (callback.weight, callback.state_key)
        make_trainer(again, package).fit(twin(model))
        assert again.penalty is not None
    make_trainer(callback, package).fit(model)
    assert copy.deepcopy(callback).state_dict() == {"step": 1}
