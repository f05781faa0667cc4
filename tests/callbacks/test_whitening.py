"""Vectors that WhiteningCallback gathers, logs and keeps, and arguments that it rejects."""

import copy
import importlib
import math
import pickle

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ortho_lightning import Whitening, WhiteningCallback
from ortho_lightning import functional as OF
from ortho_lightning.callbacks.fitting.gathering import Gathering
from ortho_lightning.callbacks.fitting.sources import own_samples
from ortho_lightning.errors import ConfigurationError, DataError, LayerSelectionError
from tests.callbacks.helpers import PACKAGES, make_trainer


def encoder_module(package="pytorch_lightning", step="tensor"):
    base = importlib.import_module(package).LightningModule

    class Encoder(base):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.5))
            self.head = nn.Linear(8, 1)
            self.unused = nn.Linear(6, 6)

        def training_step(self, batch, batch_idx):
            if step == "fails":
                raise RuntimeError("on purpose")
            return self.head(self.encoder(batch[0])).square().mean()

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.head(self.encoder(batch[0]))
            if step == "fails in validation":
                raise RuntimeError("on purpose")

        def predict_step(self, batch, batch_idx, dataloader_idx=0):
            assert not torch.is_grad_enabled()
            assert not self.training
            return {"vectors": 1} if step == "dict" else 2 * self.encoder(batch[0])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(1)
    return Encoder()


ROWS = torch.randn(37, 6, generator=torch.Generator().manual_seed(3)) + 1


def loader(rows=ROWS, batch_size=8):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=batch_size)


def fit(callback, module=None, package="pytorch_lightning", validation=None, **options):
    module = module or encoder_module(package)
    callbacks = callback if isinstance(callback, list) else [callback]
    settings = {"max_steps": -1, "max_epochs": 2, "limit_val_batches": 1.0, **options}
    trainer = make_trainer(callbacks, package, **settings)
    trainer.fit(module, loader(), validation or loader())
    return trainer, module


def encoded(module, rows=ROWS):
    module.eval()
    with torch.no_grad():
        return module.encoder(rows)


def assert_untouched(module):
    assert all(not part._forward_hooks for part in module.modules())


@pytest.mark.parametrize("package", PACKAGES)
def test_the_whitening_is_that_of_the_validation_rows_and_the_last_weights(package):
    callback = WhiteningCallback("encoder", 5, beta=0.5, gamma=0.75)
    _, module = fit(callback, package=package)
    expected = Whitening(5, 0.5, 0.75).fit(encoded(module))
    assert callback.whitening.moments.count == 37  # the sanity check left out
    torch.testing.assert_close(callback.whitening.scatter, expected.scatter, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(callback.whitening(ROWS @ torch.ones(6, 8)), expected(ROWS @ torch.ones(6, 8)))
    assert_untouched(module)


def test_predict_step_gives_the_vectors_without_gradients_and_leaves_the_mode():
    callback = WhiteningCallback("predict_step")
    _, module = fit(callback)
    expected = OF.Moments.of(2 * encoded(module))
    torch.testing.assert_close(callback.whitening.scatter, expected.scatter, rtol=1e-5, atol=1e-5)
    assert callback.whitening.moments.count == 37


def test_the_training_epoch_with_weights_that_stand_still():
    module = encoder_module()
    module.encoder[2].p = 0.0
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    callback = WhiteningCallback("encoder", stage="train")
    fit(callback, module)
    assert callback.whitening.moments.count == 37
    torch.testing.assert_close(callback.whitening.scatter, OF.Moments.of(encoded(module)).scatter)


def test_trainer_validate_alone_fits_too():
    callback, module = WhiteningCallback("encoder"), encoder_module()
    trainer = make_trainer([callback], limit_val_batches=1.0)
    trainer.validate(module, loader(), verbose=False)
    torch.testing.assert_close(callback.whitening.scatter, OF.Moments.of(encoded(module)).scatter)
    assert_untouched(module)


def test_several_validation_loaders_are_joined():
    callback = WhiteningCallback("encoder")
    _, module = fit(callback, validation=[loader(ROWS[:20]), loader(ROWS[20:])])
    torch.testing.assert_close(callback.whitening.scatter, OF.Moments.of(encoded(module)).scatter)


def test_under_autocast_the_moments_are_float64_of_the_layers_outputs():
    callback = WhiteningCallback("encoder")
    _, module = fit(callback, precision="bf16-mixed")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = encoded(module)
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(callback.whitening.scatter, OF.Moments.of(outputs).scatter, rtol=1e-12, atol=1e-12)
    assert callback.whitening.projection.dtype == torch.float32


def test_training_is_bit_identical_with_it():
    modules = []
    for callbacks in ([], [WhiteningCallback("encoder")], [WhiteningCallback("predict_step")]):
        torch.manual_seed(7)
        modules.append(fit(callbacks, encoder_module())[1])
    for module in modules[1:]:
        for name, value in modules[0].state_dict().items():
            assert torch.equal(module.state_dict()[name], value), name


# ----------------------------------------------------------------------------------------------------------- logging


def test_what_is_logged(tmp_path):
    from pytorch_lightning.loggers import TensorBoardLogger

    callback = WhiteningCallback("encoder", 4)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer, module = fit(callback, logger=logger)
    vectors = encoded(module).double()
    whitened = Whitening(4).double().fit(vectors)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert logged["whitening/rank"] == 8
    assert logged["whitening/effective_rank"] == pytest.approx(whitened.effective_rank, rel=1e-5)
    assert logged["whitening/effective_rank_after"] == pytest.approx(4, rel=1e-5)
    assert logged["whitening/explained_variance"] == pytest.approx(whitened.explained_variance_ratio.sum().item())
    assert logged["whitening/mean_cosine"] == pytest.approx(OF.mean_cosine(*OF.unit_sum(vectors)), rel=1e-5)
    after = OF.mean_cosine(*OF.unit_sum(whitened(vectors)))
    assert logged["whitening/mean_cosine_after"] == pytest.approx(after, rel=1e-3, abs=1e-5)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert len(events.Scalars("whitening/effective_rank")) == 2  # an epoch each
    assert {"whitening/spectrum", "whitening/spectrum_after"} <= set(events.Tags()["histograms"])
    (*_, last) = events.Histograms("whitening/spectrum")
    assert last.histogram_value.num == 8
    assert last.histogram_value.max == 0.0  # the largest, in decades below itself


def test_several_callbacks_have_names_of_their_own():
    first, second = WhiteningCallback("encoder"), WhiteningCallback("head", name="head")
    trainer, _ = fit([first, second])
    assert {"whitening/rank", "head/rank"} <= set(trainer.callback_metrics)
    assert second.whitening.moments.d == 1
    with pytest.raises(ConfigurationError, match="give one of them another name"):
        fit([WhiteningCallback("encoder"), WhiteningCallback("head")])


def test_vectors_are_not_kept():
    gathering = Gathering()
    for start in range(0, 50_000, 100):
        gathering.add(torch.arange(start, start + 100.0)[:, None].expand(-1, 3))
    assert 1024 <= len(gathering._sample) <= 2048
    steps = gathering._sample[:, 0].diff()
    assert (steps == steps[0]).all()  # evenly spaced over all
    assert gathering.moments.count == 50_000


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_holds_the_whitening_of_its_weights(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, auto_insert_metric_name=False)
    _, module = fit([WhiteningCallback("encoder", 3), keep], enable_checkpointing=True)
    for epoch in (0, 1):
        path = tmp_path / f"{epoch}.ckpt"
        module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
        whitening = WhiteningCallback.load(path)
        vectors = encoded(module)
        torch.testing.assert_close(whitening(vectors), Whitening(3).fit(vectors)(vectors), rtol=1e-4, atol=1e-5)


def test_the_last_epoch_may_be_resumed(tmp_path):
    straight = WhiteningCallback("encoder", 3)
    module = encoder_module()
    module.encoder[2].p = 0.0
    resumed_module = copy.deepcopy(module)
    fit(straight, module, max_epochs=3)
    keep = ModelCheckpoint(tmp_path, filename="last")
    trainer, _ = fit([WhiteningCallback("encoder", 3), keep], resumed_module, max_epochs=2, enable_checkpointing=True)
    again = WhiteningCallback("encoder", 3)
    trainer = make_trainer([again], max_steps=-1, max_epochs=3, limit_val_batches=1.0)
    trainer.fit(resumed_module, loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(again.whitening.scatter, straight.whitening.scatter, rtol=1e-5, atol=1e-6)


def test_what_was_fitted_is_there_after_a_resume_that_trains_nothing(tmp_path):
    callback = WhiteningCallback("encoder", 3)
    fit([callback, ModelCheckpoint(tmp_path, filename="last")], enable_checkpointing=True)
    again = WhiteningCallback("encoder", 3)
    trainer = make_trainer([again], max_steps=-1, max_epochs=2, limit_val_batches=1.0)
    trainer.fit(encoder_module(), loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert torch.equal(again.whitening.projection, callback.whitening.projection)


def test_checkpoints_without_a_whitening_are_refused_by_name(tmp_path):
    fit([WhiteningCallback("encoder"), ModelCheckpoint(tmp_path, filename="last")], enable_checkpointing=True)
    path = tmp_path / "last.ckpt"
    with pytest.raises(DataError, match=r"named 'other'\. It holds .*'whitening'"):
        WhiteningCallback.load(path, name="other")
    torch.save({"state_dict": {}}, tmp_path / "plain.ckpt")
    with pytest.raises(DataError, match="before an epoch"):
        WhiteningCallback.load(tmp_path / "plain.ckpt")
    torch.save({"hyper_parameters": Gathering()}, tmp_path / "objects.ckpt")
    with pytest.raises(DataError, match="weights_only=False"):
        WhiteningCallback.load(tmp_path / "objects.ckpt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"last\.ckpt cannot be read"):
        WhiteningCallback.load(path)
    with pytest.raises(DataError, match="nowhere"):
        WhiteningCallback.load(tmp_path / "nowhere.ckpt")


# -------------------------------------------------------------------------------------------------- leaving no trace


@pytest.mark.parametrize("step", ["fails", "fails in validation"])
def test_an_exception_leaves_no_hook(step):
    module = encoder_module(step=step)
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(WhiteningCallback("encoder"), module)
    assert_untouched(module)


def test_copies_and_pickles_made_while_training_are_free_of_it():
    class Copying(WhiteningCallback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            encoder = pl_module.encoder
            self.copies = [copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))]

    callback = Copying("encoder")
    fit(callback)
    for encoder in callback.copies:
        assert encoder(ROWS).shape == (37, 8)
        assert all(not isinstance(hook, type(callback)) for hook in encoder._forward_hooks.values())


def test_compiled_layers_are_seen():
    module = encoder_module()
    module.encoder = torch.compile(module.encoder, backend="eager")
    callback = WhiteningCallback("encoder")
    fit(callback, module)
    assert callback.whitening.moments.count == 37


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_layer_that_does_not_exist_lists_those_that_do():
    with pytest.raises(LayerSelectionError, match=r"layer='encodr' .*encoder, encoder.0, .*head, unused"):
        fit(WhiteningCallback("encodr"))
    with pytest.raises(LayerSelectionError, match=r"did you mean 'encoder\.0'"):
        fit(WhiteningCallback("0"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": ""}, "layer=''"),
        ({"layer": "a", "n_components": 0}, "n_components=0"),
        ({"layer": "a", "gamma": -1.0}, "gamma=-1"),
        ({"layer": "a", "stage": "test"}, "stage='test'"),
        ({"layer": "a", "name": "a/b"}, "name='a/b'"),
    ],
)
def test_arguments_outside_their_range_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        WhiteningCallback(**options)


def test_a_layer_that_never_runs_is_told():
    with pytest.raises(ConfigurationError, match=r"layer='unused': 0 vector\(s\)"):
        fit(WhiteningCallback("unused"))


def test_outputs_that_are_no_vectors_are_told():
    with pytest.raises(ConfigurationError, match="layer='predict_step': its outputs are dict"):
        fit(WhiteningCallback("predict_step"), encoder_module(step="dict"))
    module = encoder_module()
    module.encoder.append(nn.Unflatten(1, (2, 4))).append(nn.Flatten())
    with pytest.raises(ConfigurationError, match=r"layer='encoder.3': its outputs are torch.float32 \(8, 2, 4\)"):
        fit(WhiteningCallback("encoder.3"), module, num_sanity_val_steps=0)


def test_more_components_than_the_layer_gives_are_refused():
    with pytest.raises(ConfigurationError, match="n_components=9: the vectors have 8"):
        fit(WhiteningCallback("encoder", 9))


def test_a_diverged_network_is_told_and_training_goes_on():
    rows = ROWS.clone()
    rows[11] = math.nan
    callback = WhiteningCallback("encoder")
    with pytest.warns(UserWarning, match=r"nothing fitted in this epoch: .*row\(s\): 11"):
        trainer, _ = fit(callback, validation=loader(rows))
    assert callback.whitening is None
    assert trainer.current_epoch == 2


def test_no_validation_at_all_is_told():
    with pytest.warns(UserWarning, match="no whitening was fitted"):
        fit(WhiteningCallback("encoder"), limit_val_batches=0)


# ---------------------------------------------------------------------------------------------------- several processes


@pytest.mark.parametrize(("rows", "world", "batch_size"), [(10, 2, 2), (11, 2, 3), (11, 4, 2), (13, 4, 4), (3, 5, 1)])
def test_every_row_is_counted_once_whatever_the_sampler_repeats(rows, world, batch_size):
    data = torch.arange(float(rows))
    seen = []
    for rank in range(world):
        sampler = torch.utils.data.DistributedSampler(data, world, rank, shuffle=False)
        batches = torch.utils.data.DataLoader(data, batch_size, sampler=sampler)
        for batch_idx, batch in enumerate(batches):
            own = own_samples(batches, batch_idx)
            if own is not None:
                assert own[1] == len(batch)
                batch = batch[: own[0]]
            seen += batch.tolist()
    assert sorted(seen) == data.tolist()


def test_loaders_without_a_distributed_sampler_have_nothing_to_leave_out():
    assert own_samples(loader(), 4) is None
    assert own_samples([1, 2], 0) is None


def test_a_submodule_frozen_in_its_mode_stays_in_it_while_training_vectors_are_gathered():
    module = encoder_module()
    seen = []

    def freeze(module):
        module.encoder[2].eval()
        seen.clear()

    module.on_train_start = lambda: freeze(module)
    module.encoder[2].register_forward_pre_hook(lambda part, _: seen.append(part.training))
    fit(WhiteningCallback("predict_step", stage="train"), module)
    assert len(seen) > 2
    assert not any(seen)


@pytest.mark.parametrize("taken", [1, 2])
def test_predict_step_gets_as_many_arguments_as_it_takes(taken):
    module = encoder_module()
    full = module.predict_step
    steps = [lambda batch: full(batch, 0), lambda batch, batch_idx: full(batch, batch_idx)]
    module.predict_step = steps[taken - 1]
    callback = WhiteningCallback("predict_step")
    fit(callback, module)
    assert callback.whitening.moments.count == len(ROWS)


def test_more_components_than_numbers_are_refused_with_the_first_vectors():
    callback = WhiteningCallback("encoder", n_components=9)
    with pytest.raises(ConfigurationError, match="n_components=9: the vectors have 8 numbers"):
        fit(callback)
    assert callback.whitening is None
