"""Suggestion of a weight from the gradients of a few batches."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import statistics
from collections.abc import Iterable, Iterator, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ortho_lightning.callbacks.base import LightningCallback
from ortho_lightning.callbacks.penalty import intercept
from ortho_lightning.callbacks.penalty.arguments import check_regularizer
from ortho_lightning.callbacks.penalty.compatibility import check_strategy, loss_scale
from ortho_lightning.callbacks.penalty.gradient_ratio import GradientRatio
from ortho_lightning.callbacks.penalty.recording import LayerRecorder
from ortho_lightning.callbacks.penalty.step_penalty import StepPenalty
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.selection import Layers, check_selection, select_parts
from ortho_lightning.regularizers import LSH, Regularizer


def suggest_weight(
    module: Any,
    data: Iterable[Any],
    target_ratio: float = 0.1,
    regularizer: Regularizer = LSH(),
    layers: Layers = None,
    exclude: Layers = None,
    batches: int = 10,
    steps: int = 200,
    **trainer_options: Any,
) -> float:
    """Return the weight at which the penalty's gradient is ``target_ratio`` times the task's, on the selected weights.

    A copy of the module trains with its own optimizers and without the penalty for some steps, since the gradients of
    initial weights tell little about the training to come. In the batches after that the ratio of the gradients is
    measured as ``log_gradient_ratio_every_n_steps`` logs it, and the target is divided by its median. The module, the
    random state and the loader's generators are left as they were. For a weight that follows the ratio through the
    whole training there is :class:`~ortho_lightning.GradientShare`.

    Args:
        module: a LightningModule; not changed.
        data: a DataLoader or another iterable of batches, which is gone through again where it has too few. Not an
            iterator, which that would use up.
        target_ratio: above 0.
        regularizer: as for :class:`~ortho_lightning.OrthogonalityCallback`.
        layers: likewise.
        exclude: likewise.
        batches: to measure in, 1 or more.
        steps: to train before, 0 or more. The ratio falls while a network trains: for LSH on the small CNN (CIFAR-10,
            500 steps, weight 1) from 8.3 at first to 2.2 after 50 steps, 0.44 after 200 and 0.27 after 400.
        **trainer_options: for the Trainer, such as ``precision="bf16-mixed"`` or ``accelerator="cpu"``; it runs on one
            device. ``max_epochs`` is for a learning-rate schedule that depends on the length of the training.

    Returns:
        The weight, above 0.

    Raises:
        ConfigurationError: for an argument outside its range, or where the gradients tell no weight.

    Example::

        weight = suggest_weight(module, loader, target_ratio=0.1, layers="layer*.conv*")
    """
    if not (isinstance(target_ratio, (int, float)) and 0 < target_ratio < math.inf):
        raise ConfigurationError(f"target_ratio={target_ratio!r}: must be a positive number; 0.1 is a good start")
    if not isinstance(batches, int) or batches < 1:
        raise ConfigurationError(f"batches={batches!r}: must be an integer of 1 or more")
    if not isinstance(steps, int) or steps < 0:
        raise ConfigurationError(f"steps={steps!r}: must be an integer of 0 or more")
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise ConfigurationError(
            f"data={data!r}: give a DataLoader or a list of batches. A DataModule is asked for its train_dataloader() "
            "first; an iterator would be used up"
        )
    if "callbacks" in trainer_options:
        raise ConfigurationError("callbacks=...: the Trainer that measures has one of its own; leave callbacks out")
    check_regularizer(regularizer)
    check_selection("layers", layers)
    check_selection("exclude", exclude)
    probe = _Probe(regularizer, layers, exclude, steps, batches)
    lightning = _package_of(module)
    isolate_rng = importlib.import_module(f"{lightning.__name__}.utilities.seed").isolate_rng
    with isolate_rng(), _generators_kept(data):
        batches_of_data = _CountedBatches(data) if isinstance(data, Sized) else _Batches(data)
        # seldom reached: where the measurement is complete, the training is told to stop
        epochs = max(100, steps + batches)
        _run(lightning, _copy(module), batches_of_data, probe, {"max_epochs": epochs, **trainer_options})
    if probe.measured == 0:
        raise ConfigurationError(f"data gave too few batches: {steps} steps and then a measurement need {steps + 1}")
    if not probe.ratios:
        raise ConfigurationError(
            f"{probe.measured} batches gave {len(probe.ratios)} gradient ratios above 0: the selected layers must run "
            "in training_step, and both the loss and the penalty must depend on their weights"
        )
    return float(target_ratio / statistics.median(probe.ratios))


class _Probe(LightningCallback):
    """Measures the ratio of the gradients at weight 1 in some batches after others, and adds nothing to the loss."""

    def __init__(self, regularizer: Regularizer, layers: Layers, exclude: Layers, before: int, batches: int) -> None:
        self.ratios: list[float] = []
        self.measured = 0
        """Batches that were measured."""
        self._before = before
        self._batches = batches
        self._regularizer = regularizer
        self._selection = (layers, exclude)
        self._trainer: Any = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        sampling = self._regularizer.sampling
        check_strategy(trainer, gradient_ratio=True)
        layers = select_parts(pl_module, *self._selection, outputs=sampling is not None)
        self._trainer = trainer
        self._recorder = LayerRecorder(layers, sampling)
        self._step_penalty = StepPenalty(layers, self._regularizer, "local")
        self._gradient_ratio = GradientRatio(pl_module, layers)
        intercept.attach(pl_module, self)

    def serves(self, module: Any) -> bool:
        return module._trainer is self._trainer

    def recording(self, module: Any) -> contextlib.AbstractContextManager[None]:
        return self._recorder.record(seed=self._recorder.steps)

    def weighted_penalty(self, loss: Tensor) -> None:
        step = self._recorder.steps
        if step <= self._before:
            return
        views = self._step_penalty.views(self._recorder.take(loss))
        penalties = self._step_penalty.total(views, loss.device)
        total = None if penalties is None else penalties.total
        found = self._gradient_ratio.measure(total, loss, step, loss_scale(self._trainer))
        if found.get("gradient_ratio", 0.0) > 0:
            self.ratios.append(found["gradient_ratio"])

    def step_ran(self, module: Any) -> None:
        self._recorder.discard()
        self.measured = max(self._recorder.steps - self._before, 0)
        if self.measured == self._batches:
            module.trainer.should_stop = True

    def detach(self) -> None:
        self._recorder.close()


def _copy(module: Any) -> Any:
    trainer, module._trainer = module._trainer, None  # a Trainer that was used holds data and loggers
    try:
        copied = copy.deepcopy(module)
    finally:
        module._trainer = trainer
    return copied


def _package_of(module: Any) -> Any:
    """Return the package of Lightning that the module is of: a Trainer accepts no other."""
    ours = any(kind.__module__.startswith("pytorch_lightning.") for kind in type(module).__mro__)
    return importlib.import_module("pytorch_lightning" if ours else "lightning.pytorch")


class _Batches(IterableDataset[Any]):
    """The batches of a loader as they are."""

    def __init__(self, data: Iterable[Any]) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data)


class _CountedBatches(_Batches):
    """Batches whose number is known, which schedules of the learning rate may ask for."""

    def __len__(self) -> int:
        return len(cast("Sized", self._data))


def _run(lightning: Any, module: Any, batches: _Batches, probe: _Probe, options: dict[str, Any]) -> None:
    settings = {
        "devices": 1,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    loader = DataLoader(batches, batch_size=None, collate_fn=_as_it_is)
    lightning.Trainer(**settings, callbacks=[probe]).fit(module, loader)


def _as_it_is(batch: Any) -> Any:
    return batch


@contextlib.contextmanager
def _generators_kept(data: Any) -> Iterator[None]:
    """Put the generators that a DataLoader and its samplers draw from back."""
    holders = [data, getattr(data, "sampler", None), getattr(data, "batch_sampler", None)]
    holders.append(getattr(holders[-1], "sampler", None))
    generators = [getattr(holder, "generator", None) for holder in holders]
    states = [(each, each.get_state()) for each in generators if isinstance(each, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)
