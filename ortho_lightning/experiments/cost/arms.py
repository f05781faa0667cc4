"""Arms of the benchmark: a network trained without penalty, with a regularizer of the package, or with a baseline."""

from __future__ import annotations

import contextlib
import copy
import statistics
from collections.abc import Callable, Sequence
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
from ortho_lightning.experiments.common.clock import StepClock
from ortho_lightning.experiments.cost.baselines import BASELINES
from ortho_lightning.experiments.cost.memory import StepMemory
from ortho_lightning.experiments.cost.networks import compared, unreached
from ortho_lightning.layers.selection import select_layers
from ortho_lightning.models import Muon
from ortho_lightning.regularizers import LSH

VARIANTS: dict[str, Callable[[], LSH]] = {
    "lsh_512": lambda: LSH(max_samples=512),
    "lsh_2048": lambda: LSH(max_samples=2048),
    "lsh_all_rows": lambda: LSH(max_samples=None),
}
_CONFIGURED = sorted(path.stem for path in (Path(conf_dir()) / "regularizer").glob("*.yaml"))
_WITHOUT_PENALTY = ("none", "muon", *BASELINES)
PENALTIES = tuple(name for name in _CONFIGURED if name not in _WITHOUT_PENALTY)
"""The arms of conf/regularizer with a penalty of the package."""
ARMS = ("none", *PENALTIES, *VARIANTS, "lsh_every_4", *BASELINES, "muon")
_WEIGHT = 1e-4  # of the penalty; its size does not change the cost


class _Subject(LightningModule):
    """A network trained with cross-entropy, and with the penalty of a baseline or by Muon."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.penalty: Callable[[], Tensor] | None = None
        self.muon: Muon | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        output = self.network(batch[0])
        loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, batch[1])
        return loss if self.penalty is None else loss + _WEIGHT * self.penalty()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kernels = [] if self.muon is None else self.muon.kernels(self)
        by_muon = {id(kernel) for kernel in kernels}
        others = [parameter for parameter in self.parameters() if id(parameter) not in by_muon]
        rest = torch.optim.SGD(others, lr=1e-3, momentum=0.9)
        return rest if self.muon is None else self.muon.beside(rest, kernels)


class Arm:
    """A module with one regularizer, to be trained a few steps at a time.

    Args:
        name: of the arm.
        subject: the module that is trained.
        batch: the batch of every step.
        options: further arguments of the Trainer.
        callbacks: add the penalty or the constraint; none where there is neither, or it is the module's own.
        every: steps from one penalty to the next.
    """

    def __init__(
        self,
        name: str,
        subject: LightningModule,
        batch: tuple[Tensor, Tensor],
        options: dict[str, Any],
        callbacks: Sequence[Callback] = (),
        every: int = 1,
    ) -> None:
        self.name = name
        self._subject = subject
        self._batch = batch
        self._options = options
        self._callbacks = callbacks
        self._every = every

    def step_times(self, steps: int) -> list[float]:
        """Return the seconds of each of ``steps`` training steps, after one that is not counted."""
        clock = StepClock(left_out=self._every)
        self._fit((steps + 1) * self._every, clock)
        times = clock.times()
        # a lazy penalty comes with every n-th step: the mean over an interval is what a step costs
        return [statistics.fmean(times[i : i + self._every]) for i in range(0, len(times), self._every)]

    def peak_bytes(self) -> int:
        """Return the most memory that a training step holds at once, parameters and optimizer included."""
        memory = StepMemory()
        self._fit(2 * self._every, memory)
        return max(memory.peaks)

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


def check_arm(name: str) -> None:
    """Reject an unknown arm.

    Raises:
        ConfigurationError: listing the arms there are.
    """
    if name not in ARMS:
        raise ConfigurationError(f"arms={name!r}: there are {list(ARMS)}")


def named_arm(name: str, network: nn.Module, batch: tuple[Tensor, Tensor], options: dict[str, Any]) -> Arm:
    """Return one of :data:`ARMS` on a copy of a network.

    Args:
        name: of the arm.
        network: is copied.
        batch: the batch of every step.
        options: further arguments of the Trainer.
    """
    check_arm(name)
    subject = _Subject(copy.deepcopy(network))
    if name in BASELINES:
        subject.penalty = BASELINES[name](select_layers(subject, compared(network), unreached(network)))
    if name == "muon":
        names = list(select_layers(subject))
        subject.muon = Muon(exclude=[names[0], names[-1]])
    if name in _WITHOUT_PENALTY:
        return Arm(name, subject, batch, options)
    every = 4 if name == "lsh_every_4" else 1
    regularizer = _configured("lsh" if name == "lsh_every_4" else name)
    callback = OrthogonalityCallback(
        VARIANTS[name]() if name in VARIANTS else instantiate(regularizer.penalty),
        layers=compared(network),
        exclude=unreached(network),
        weight=_WEIGHT,
        every_n_steps=every,
        log_every_n_steps=None,
        monitor=None,
        apply=regularizer.get("apply", "loss"),
    )
    return Arm(name, subject, batch, options, [callback], every)


def _configured(name: str) -> DictConfig:
    """Return the file of an arm in conf/regularizer, or that of lsh for its variants."""
    running = GlobalHydra.instance().is_initialized()
    with contextlib.nullcontext() if running else initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("train", [f"regularizer={'lsh' if name in VARIANTS else name}"]).regularizer
