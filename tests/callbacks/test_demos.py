"""Lightning's own demo models: off means off, and a penalty trains as the same penalty written by hand."""

import functools
import pickle
import random
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ortho_lightning import AngleMonitor, OrthogonalityCallback
from ortho_lightning.regularizers import LSH, Gram
from tests.callbacks.demos import BY_HAND, MODELS, NAMES, WEIGHT
from tests.callbacks.fits import assert_untouched
from tests.callbacks.helpers import PACKAGES, boring, make_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no forward of .*out_proj.* was seen",  # MultiheadAttention never calls the layer
    "ignore:.*the filters fall together",
    "ignore:enable_nested_tensor is True",
    "ignore:`isinstance\\(treespec, LeafSpec\\)` is deprecated",
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums come in the same order then, and small models train faster."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Trained:
    """What a fit leaves behind."""

    module: Any
    checkpoint: dict[str, Any]
    """As it was written, without the callbacks'."""
    metrics: dict[str, Any]
    random_states: tuple[Any, ...]


def train(kind, package, callbacks=()):
    """Fit two epochs of three batches with validation and a checkpoint at the end of each."""
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)
    module = kind()
    with TemporaryDirectory() as folder:
        trainer = make_trainer(
            callbacks,
            package,
            max_steps=-1,
            max_epochs=2,
            limit_train_batches=3,
            limit_val_batches=2,
            enable_checkpointing=True,
            default_root_dir=folder,
        )
        validation = torch.utils.data.DataLoader(boring(package).RandomDataset(32, 4))
        trainer.fit(module, val_dataloaders=validation)
        (path,) = Path(folder).rglob("*.ckpt")
        checkpoint = torch.load(path, weights_only=False)
    assert checkpoint.pop("callbacks")
    metrics = {name: value for name, value in trainer.callback_metrics.items() if not name.startswith("ortho/")}
    return Trained(module, checkpoint, metrics, (torch.get_rng_state(), np.random.get_state(), random.getstate()))


@functools.cache
def plain(package, name):
    return train(MODELS[package, name], package)


@functools.cache
def by_hand(package, name, penalty):
    class Mine(BY_HAND[package, name]):
        pass

    Mine.penalty = penalty
    return train(Mine, package)


def assert_equal(found, expected, close=False):
    """The same structure with the same numbers; tensors are bit-identical unless ``close``."""
    assert type(found) is type(expected)
    if isinstance(found, dict):
        assert list(found) == list(expected)
        for key, value in found.items():
            assert_equal(value, expected[key], close)
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other, close)
    elif isinstance(found, Tensor) and close:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    elif isinstance(found, Tensor):
        assert torch.equal(found, expected)
    else:
        assert np.array_equal(found, expected)


OFF = {
    "measure": lambda: OrthogonalityCallback(None, log_every_n_steps=1),
    "lsh": lambda: OrthogonalityCallback(LSH(), weight=0.0, log_every_n_steps=1),
    "gram": lambda: OrthogonalityCallback(Gram(), weight=0.0, log_every_n_steps=1),
    "monitor": lambda: AngleMonitor(every_n_steps=1),
}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", OFF)
def test_without_weight_the_demo_trains_bit_by_bit_as_without_the_callback(package, name, mode):
    found, expected = train(MODELS[package, name], package, [OFF[mode]()]), plain(package, name)
    assert {"task", "validation"} <= set(found.metrics)
    assert found.checkpoint["optimizer_states"][0]["param_groups"]
    assert_equal(found.checkpoint, expected.checkpoint)
    assert_equal(found.metrics, expected.metrics)
    assert_equal(found.random_states, expected.random_states)


ON = {
    "gram": lambda: OrthogonalityCallback(Gram(), weight=WEIGHT, log_every_n_steps=1),
    "lsh": lambda: OrthogonalityCallback(LSH(max_samples=None), weight=WEIGHT, log_every_n_steps=1),
}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("penalty", ON)
def test_with_a_weight_the_demo_trains_as_with_the_penalty_written_into_its_step(package, name, penalty):
    callback = ON[penalty]()
    found, expected = train(MODELS[package, name], package, [callback]), by_hand(package, name, penalty)
    assert_equal(found.checkpoint, expected.checkpoint, close=True)
    assert_equal(found.random_states, expected.random_states)
    assert callback.penalty > 0

    assert_untouched(found.module)
    found.module.trainer = None
    again = pickle.loads(pickle.dumps(found.module))
    assert_equal(again.state_dict(), found.module.state_dict())
