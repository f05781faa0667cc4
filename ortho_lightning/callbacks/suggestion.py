"""A weight to begin with, from the gradients of a few batches."""

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
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ortho_lightning.callbacks.orthogonality import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.selection import Layers
from ortho_lightning.regularizers import Regularizer


def suggest_weight(
    module: Any,
    data: Iterable[Any],
    target_ratio: float = 0.1,
    regularizer: Regularizer | None = None,
    layers: Layers = None,
    exclude: Layers = None,
    batches: int = 10,
    **trainer_options: Any,
) -> float:
    """The weight at which the penalty's gradient is ``target_ratio`` times the task's, on the selected weights.

    A copy of the module runs ``training_step`` on the first batches, as the Trainer would run it; the median of the
    ratio that ``log_gradient_ratio_every_n_steps`` logs is set against the target. The copy does not learn, so this is
    the ratio at the weights that the module has now (under manual optimization its own optimizers step, without the
    penalty). The module, the random state and the loader's generators are left as they were.

    Args:
        module: a LightningModule; not changed.
        data: a DataLoader or another iterable of batches, which is asked for its first ``batches`` of them. Not an
            iterator, which that would use up.
        target_ratio: above 0.
        regularizer, layers, exclude: as for :class:`~ortho_lightning.OrthogonalityCallback`; None is ``LSH()``.
        batches: 1 or more.
        trainer_options: for the Trainer, such as ``precision="bf16-mixed"`` or ``accelerator="cpu"``; it runs on one
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
    settings: dict[str, Any] = {} if regularizer is None else {"regularizer": regularizer}
    probe = _Probe(layers=layers, exclude=exclude, **settings)
    with isolate_rng(), _generators_kept(data):
        first = list(itertools.islice(data, batches))
        _run(_copy(module), first, probe, trainer_options)
    if not probe.ratios or statistics.median(probe.ratios) == 0:
        raise ConfigurationError(
            f"{len(first)} batches gave {len(probe.ratios)} gradient ratios above 0: the selected layers must run in "
            "training_step, and both the loss and the penalty must depend on their weights"
        )
    return float(target_ratio / statistics.median(probe.ratios))


class _Probe(OrthogonalityCallback):
    """Measures the ratio at weight 1 in every step, and joins nothing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(
            **settings,
            weight=1.0,
            log_every_n_steps=None,
            log_histograms_every_n_epochs=None,
            log_pictures=None,
            log_gradient_ratio_every_n_steps=1,
        )
        self.ratios: list[float] = []

    def _join(self, loss: Tensor, whole_step: bool) -> Tensor:
        super()._join(loss, whole_step)
        return loss

    def _describe(self, trainer: Any) -> None:
        pass

    def _log_gradient_ratio(self, trainer: Any) -> None:
        if self._gradient_ratio is not None and "gradient_ratio" in self._gradient_ratio.found:
            ratio = self._gradient_ratio.found.pop("gradient_ratio")
            if ratio > 0:
                self.ratios.append(ratio)


def _copy(module: Any) -> Any:
    trainer, module._trainer = module._trainer, None  # a Trainer that was used holds data and loggers
    try:
        copied = copy.deepcopy(module)
    finally:
        module._trainer = trainer
    if copied.automatic_optimization:
        copied.configure_optimizers = lambda: torch.optim.SGD(copied.parameters(), lr=0.0)
    return copied


def _run(module: Any, batches: list[Any], probe: _Probe, options: dict[str, Any]) -> None:
    # a Trainer accepts modules of its own package only
    ours = any(kind.__module__.startswith("pytorch_lightning.") for kind in type(module).__mro__)
    lightning = importlib.import_module("pytorch_lightning" if ours else "lightning.pytorch")
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
