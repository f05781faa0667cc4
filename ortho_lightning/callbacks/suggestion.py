"""Suggestion of a weight from the gradients of a few batches."""

from __future__ import annotations

import contextlib
import copy
import importlib
import itertools
import math
import statistics
from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ortho_lightning.callbacks.base import LightningCallback
from ortho_lightning.callbacks.penalty import intercept
from ortho_lightning.callbacks.penalty.arguments import check_regularizer
from ortho_lightning.callbacks.penalty.compatibility import check_strategy, loss_scale
from ortho_lightning.callbacks.penalty.gradient_ratio import GradientRatio
from ortho_lightning.callbacks.penalty.recording import LayerRecorder
from ortho_lightning.callbacks.penalty.step_penalty import StepPenalty
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.selection import Layers, check_selection, select_layers
from ortho_lightning.regularizers import LSH, Regularizer


def suggest_weight(
    module: Any,
    data: Iterable[Any],
    target_ratio: float = 0.1,
    regularizer: Regularizer = LSH(),
    layers: Layers = None,
    exclude: Layers = None,
    batches: int = 10,
    **trainer_options: Any,
) -> float:
    """Return the weight at which the penalty's gradient is ``target_ratio`` times the task's, on the selected weights.

    A copy of the module runs ``training_step`` on the first batches, as the Trainer would run it; the target is divided
    by the median of the ratio that ``log_gradient_ratio_every_n_steps`` logs. The copy does not learn, so this is
    the ratio at the weights that the module has now (under manual optimization its own optimizers step, without the
    penalty). The module, the random state and the loader's generators are left as they were.

    Args:
        module: a LightningModule; not changed.
        data: a DataLoader or another iterable of batches, which is asked for its first ``batches`` of them. Not an
            iterator, which that would use up.
        target_ratio: above 0.
        regularizer: as for :class:`~ortho_lightning.OrthogonalityCallback`.
        layers: likewise.
        exclude: likewise.
        batches: 1 or more.
        **trainer_options: for the Trainer, such as ``precision="bf16-mixed"`` or ``accelerator="cpu"``; it runs on one
            device.

    Returns:
        The weight, above 0.

    Raises:
        ConfigurationError: for an argument outside its range, or where the gradients tell no weight.

    Example::

        weight = suggest_weight(module, loader, target_ratio=0.1, layers="layer*.conv*")
    """
    if not (isinstance(target_ratio, (int, float)) and 0 < target_ratio < math.inf):
        raise ConfigurationError(f"target_ratio={target_ratio!r}: must be a positive number; 0.1 is a place to begin")
    if not isinstance(batches, int) or batches < 1:
        raise ConfigurationError(f"batches={batches!r}: must be an integer of 1 or more")
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
    probe = _Probe(regularizer, layers, exclude)
    lightning = _package_of(module)
    isolate_rng = importlib.import_module(f"{lightning.__name__}.utilities.seed").isolate_rng
    with isolate_rng(), _generators_kept(data):
        first = list(itertools.islice(data, batches))
        _run(lightning, _copy(module), first, probe, trainer_options)
    if not probe.ratios or statistics.median(probe.ratios) == 0:
        raise ConfigurationError(
            f"{len(first)} batches gave {len(probe.ratios)} gradient ratios above 0: the selected layers must run in "
            "training_step, and both the loss and the penalty must depend on their weights"
        )
    return float(target_ratio / statistics.median(probe.ratios))


class _Probe(LightningCallback):
    """Measures the ratio of the gradients at weight 1 in every step, and adds nothing to the loss."""

    def __init__(self, regularizer: Regularizer, layers: Layers, exclude: Layers) -> None:
        self.ratios: list[float] = []
        self._regularizer = regularizer
        self._selection = (layers, exclude)
        self._trainer: Any = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        sampling = self._regularizer.sampling
        check_strategy(trainer, gradient_ratio=True)
        layers = select_layers(pl_module, *self._selection, outputs=sampling is not None)
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
        views = self._step_penalty.views(self._recorder.take(loss))
        penalties = self._step_penalty.total(views, loss.device)
        total = None if penalties is None else penalties.total
        found = self._gradient_ratio.measure(total, loss, step, loss_scale(self._trainer))
        if found.get("gradient_ratio", 0.0) > 0:
            self.ratios.append(found["gradient_ratio"])

    def step_ran(self, module: Any) -> None:
        self._recorder.discard()

    def detach(self) -> None:
        self._recorder.close()


def _copy(module: Any) -> Any:
    trainer, module._trainer = module._trainer, None  # a Trainer that was used holds data and loggers
    try:
        copied = copy.deepcopy(module)
    finally:
        module._trainer = trainer
    if copied.automatic_optimization:
        copied.configure_optimizers = lambda: torch.optim.SGD(copied.parameters(), lr=0.0)
    return copied


def _package_of(module: Any) -> Any:
    """Return the package of Lightning that the module is of: a Trainer accepts no other."""
    ours = any(kind.__module__.startswith("pytorch_lightning.") for kind in type(module).__mro__)
    return importlib.import_module("pytorch_lightning" if ours else "lightning.pytorch")


def _run(lightning: Any, module: Any, batches: list[Any], probe: _Probe, options: dict[str, Any]) -> None:
    settings = {
        "devices": 1,
        "max_epochs": 1,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    loader = DataLoader(cast("Dataset[Any]", batches), batch_size=None, collate_fn=_as_it_is)
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
