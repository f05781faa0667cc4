"""Arms of the benchmark: a network trained without a penalty, with a regularizer of the package, or with a baseline."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.experiments.cost.baselines import BASELINES
from ortho_lightning.experiments.cost.clock import Seconds, StepTimes
from ortho_lightning.experiments.cost.limit import bare_products
from ortho_lightning.experiments.cost.memory import StepMemory
from ortho_lightning.experiments.cost.networks import compared, unreached
from ortho_lightning.layers.selection import select_layers, select_parts
from ortho_lightning.models import Muon
from ortho_lightning.regularizers import LSH, Gram, Regularizer

VARIANTS: dict[str, Callable[[], Regularizer]] = {
    "lsh_512": lambda: LSH(max_samples=512),
    "lsh_2048": lambda: LSH(max_samples=2048),
    "lsh_all_rows": lambda: LSH(max_samples=None),
    "lsh_256_filters": lambda: LSH(max_filters=256),
    "lsh_exact_256_filters": lambda: LSH(probe="exact", max_filters=256),
    "gram_256_filters": lambda: Gram(max_filters=256),
}
_CONFIGURED = sorted(path.stem for path in (Path(conf_dir()) / "regularizer").glob("*.yaml"))
_WITHOUT_PENALTY = ("none", "muon", *BASELINES)
PENALTIES = tuple(name for name in _CONFIGURED if name not in _WITHOUT_PENALTY)
"""The arms of conf/regularizer with a penalty of the package."""
ARMS = ("none", *PENALTIES, *VARIANTS, "lsh_every_4", *BASELINES, "muon")
_WEIGHT = 1e-4  # of the penalty; its size does not change the cost
_FIRST_STEPS = 4  # allocate memory, choose kernels and compile, with and without a penalty; they do not count


class _Subject(LightningModule):
    """A network trained with cross-entropy, and with the penalty of a baseline or by Muon."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.penalty: Callable[[], Tensor] | None = None
        self.every = 1
        self.muon: Muon | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        output = self.network(batch[0])
        loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, batch[1])
        if self.penalty is None or self.global_step % self.every:
            return loss
        return loss + _WEIGHT * self.penalty()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kernels = [] if self.muon is None else self.muon.kernels(self)
        by_muon = {id(kernel) for kernel in kernels}
        others = [parameter for parameter in self.parameters() if id(parameter) not in by_muon]
        rest = torch.optim.SGD(others, lr=1e-3, momentum=0.9)
        return rest if self.muon is None else self.muon.beside(rest, kernels)


@dataclass(frozen=True)
class Pair:
    """Time of what is measured, and of the same step without it."""

    own: Seconds
    plain: Seconds


class Arm:
    """A module with one regularizer, to be trained a few steps at a time.

    Args:
        name: of the arm.
        subject: the module that is trained.
        batch: the batch of every step.
        options: further arguments of the Trainer.
        callbacks: add the penalty or the constraint; none where there is neither, or it is the module's own.
        every: steps from one penalty to the next in use.
        spacing: the same while it is measured, 2 or more, so that a penalized step has neighbours without penalty.
            None: all steps are alike, as with a constraint.
        limit: returns the seconds that the penalty cannot do without, or None if that is not known.
    """

    def __init__(
        self,
        name: str,
        subject: LightningModule,
        batch: tuple[Tensor, Tensor],
        options: dict[str, Any],
        callbacks: Sequence[Callback] = (),
        every: int = 1,
        spacing: int | None = 2,
        limit: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.name = name
        self.every = every
        self.spacing = spacing
        self.limit = limit
        self._subject = subject
        self._batch = batch
        self._options = options
        self._callbacks = callbacks

    def neighbours(self, count: int) -> list[Pair]:
        """Return so many penalized steps of one fit, each with the mean of the steps before and after it.

        They share their place in memory, the state of the caches and the other load of the machine, which two copies of
        a model do not.
        """
        assert self.spacing is not None
        first = -(-_FIRST_STEPS // self.spacing) * self.spacing
        times = self._times(first + count * self.spacing)
        found = times[first :: self.spacing][:count]
        around = [(times[at - 1], times[at + 1]) for at in range(first, len(times) - 1, self.spacing)]
        return [Pair(own, _mean(*pair)) for own, pair in zip(found, around, strict=True)]

    def step_time(self) -> Seconds:
        """Return the time of one step, after those that do not count."""
        return self._times(_FIRST_STEPS + 1)[-1]

    def peak_bytes(self) -> int:
        """Return the most memory that a training step holds at once, parameters and optimizer included."""
        memory = StepMemory()
        self._fit(1 + (self.spacing or 1), memory)
        return max(memory.peaks)

    def _times(self, steps: int) -> list[Seconds]:
        clock = StepTimes()
        self._fit(steps, clock)
        return clock.times()

    def _fit(self, steps: int, watch: Callback) -> None:
        trainer = Trainer(
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*self._callbacks, watch],
            **self._options,
        )
        batches: Any = [self._batch] * steps
        trainer.fit(self._subject, DataLoader(batches, batch_size=None))


def _mean(one: Seconds, other: Seconds) -> Seconds:
    cpu = None if one.cpu is None or other.cpu is None else (one.cpu + other.cpu) / 2
    return Seconds((one.wall + other.wall) / 2, cpu)


def check_arm(name: str) -> None:
    """Reject an unknown arm.

    Raises:
        ConfigurationError: listing the arms there are.
    """
    if name not in ARMS:
        raise ConfigurationError(f"arms={name!r}: there are {list(ARMS)}")


def named_arm(
    name: str, network: nn.Module, batch: tuple[Tensor, Tensor], options: dict[str, Any], compiled: bool = False
) -> Arm:
    """Return one of :data:`ARMS` on a copy of a network.

    Args:
        name: of the arm.
        network: is copied.
        batch: the batch of every step.
        options: further arguments of the Trainer.
        compiled: compile the network.
    """
    check_arm(name)
    subject = _Subject(copy.deepcopy(network))
    if compiled:
        subject.network.compile()
    if name in BASELINES:
        subject.every = 2
        subject.penalty = BASELINES[name](select_layers(subject, compared(network), unreached(network)))
    if name == "muon":
        names = list(select_layers(subject))
        subject.muon = Muon(exclude=[names[0], names[-1]])
    if name in _WITHOUT_PENALTY:
        alike = name == "muon" or (name in BASELINES and subject.penalty is None)
        return Arm(name, subject, batch, options, spacing=None if alike else 2)
    every = 4 if name == "lsh_every_4" else 1
    spacing = max(every, 2)
    configured = _configured("lsh" if name == "lsh_every_4" else name)
    regularizer = VARIANTS[name]() if name in VARIANTS else instantiate(configured.penalty)
    callback = OrthogonalityCallback(
        regularizer,
        layers=compared(network),
        exclude=unreached(network),
        weight=_WEIGHT,
        every_n_steps=spacing,
        log_every_n_steps=None,
        monitor=None,
        apply=configured.get("apply", "loss"),
    )
    layers = select_parts(subject, callback.layers, callback.exclude)
    limit = functools.partial(bare_products, subject.network, layers, batch[0], regularizer)
    return Arm(name, subject, batch, options, [callback], every, spacing, limit)


def _configured(name: str) -> DictConfig:
    """Return the file of an arm in conf/regularizer, or that of lsh for its variants."""
    running = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if running else initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("train", [f"regularizer={'lsh' if name in VARIANTS else name}"]).regularizer
