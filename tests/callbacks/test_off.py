"""Off means off: bit-identical weights and random state."""

import pytest
import torch

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.helpers import PACKAGES, images, make_trainer, vision_module


def train(callbacks, package, tmp_path):
    from pytorch_lightning.loggers import TensorBoardLogger as Plain

    logger = Plain(tmp_path)
    if package != "pytorch_lightning":
        from lightning.pytorch.loggers import TensorBoardLogger

        logger = TensorBoardLogger(tmp_path)
    module = vision_module(package)
    torch.manual_seed(123)
    trainer = make_trainer(
        callbacks, package, max_steps=-1, max_epochs=3, limit_val_batches=1, logger=logger, default_root_dir=tmp_path
    )
    trainer.fit(module, images(12), images(4))
    return module.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "make",
    [
        lambda: OrthogonalityCallback(None, log_every_n_steps=1),
        lambda: OrthogonalityCallback(LSH(), weight=0.0, log_every_n_steps=1),
        lambda: OrthogonalityCallback(LSH(probe="gaussian"), weight=0.0, log_every_n_steps=1),
        lambda: OrthogonalityCallback(Gram(), weight=0.0, log_every_n_steps=1),
        lambda: OrthogonalityCallback(LSH(), weight=1.0, schedule=lambda step, total: 0.0, log_every_n_steps=1),
    ],
)
def test_training_is_bit_identical(package, make, tmp_path):
    weights, state = train([], package, tmp_path)
    with_callback, with_state = train([make()], package, tmp_path)
    assert all(torch.equal(value, with_callback[name]) for name, value in weights.items())
    assert torch.equal(state, with_state)


def test_the_same_holds_not_with_a_weight(tmp_path):
    # the comparison above can fail
    weights, _ = train([], "pytorch_lightning", tmp_path)
    with_callback, _ = train([OrthogonalityCallback(weight=0.1)], "pytorch_lightning", tmp_path)
    assert not torch.equal(weights["net.0.weight"], with_callback["net.0.weight"])


def test_penalty_draws_nothing_from_the_global_random_state(tmp_path):
    _, state = train([], "pytorch_lightning", tmp_path)
    for regularizer in (LSH(), LSH(probe="gaussian"), LSH(detach_inputs=True), Gram()):
        _, with_state = train([OrthogonalityCallback(regularizer, weight=0.1)], "pytorch_lightning", tmp_path)
        assert torch.equal(state, with_state)


def test_weight_zero_still_measures(tmp_path):
    callback = OrthogonalityCallback(weight=0.0)
    train([callback], "pytorch_lightning", tmp_path)
    assert callback.penalty > 0
    assert not callback.penalty.requires_grad


def test_reading_angles_makes_no_power_iteration(tmp_path):
    def spectral(callbacks):
        module = vision_module()
        module.net[6] = torch.nn.utils.parametrizations.spectral_norm(module.net[6])
        make_trainer(callbacks, max_steps=3).fit(module, images(12))
        return module.state_dict()

    plain = spectral([])
    measured = spectral([OrthogonalityCallback(None, log_every_n_steps=1)])
    assert all(torch.equal(value, measured[name]) for name, value in plain.items())
