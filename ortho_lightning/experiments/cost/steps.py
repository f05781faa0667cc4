"""What a training step costs under each regularizer: time and peak memory."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from ortho_lightning import OrthogonalityCallback
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.clock import StepClock
from ortho_lightning.experiments.cost.baselines import RIVALS
from ortho_lightning.layers.selection import select_layers
from ortho_lightning.models import PointNet, SmallCNN, resnet18_cifar
from ortho_lightning.regularizers import LSH, Gram, Regularizer

REGULARIZERS: dict[str, Callable[[], Regularizer]] = {
    "lsh": LSH,
    "lsh_512": lambda: LSH(max_samples=512),
    "lsh_2048": lambda: LSH(max_samples=2048),
    "lsh_all_rows": lambda: LSH(max_samples=None),
    "lsh_gaussian": lambda: LSH(probe="gaussian"),
    "lsh_exact": lambda: LSH(probe="exact"),
    "gram": Gram,
    "gram_offdiag": lambda: Gram(off_diagonal=True),
}
ARMS = ("none", *REGULARIZERS, "lsh_every_4", *RIVALS)


def _resnet18(width: int, resolution: int) -> nn.Module:
    if width != 1:
        raise ConfigurationError(
            f"widths={width}: torchvision's ResNet-18 has one width; use small_cnn, vit or resnet50"
        )
    return resnet18_cifar() if resolution <= 64 else torchvision.models.resnet18(num_classes=10)


def _resnet50(width: int, resolution: int) -> nn.Module:
    network = torchvision.models.resnet50(num_classes=10, width_per_group=64 * width)
    if resolution <= 64:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


def _vit(width: int, resolution: int) -> nn.Module:
    size = (resolution, _patch(resolution))
    return torchvision.models.VisionTransformer(*size, 6, 3, 192 * width, 768 * width, num_classes=10)


def _patch(resolution: int) -> int:
    return 4 if resolution <= 64 else 16


NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "small_cnn": lambda width, resolution: SmallCNN(width=32 * width),
    "vit": _vit,
    "pointnet": lambda width, resolution: PointNet(10, width=32 * width),
}


@dataclass(frozen=True)
class Case:
    """One network on one size of batch. ``resolution``: pixels a side; 1024 points whatever it is for PointNet."""

    network: str
    batch_size: int
    resolution: int
    width: int

    def check(self) -> None:
        """Refuse what cannot be made, before anything is measured."""
        if self.network not in NETWORKS:
            raise ConfigurationError(f"networks={self.network!r}: there are {sorted(NETWORKS)}")
        for key in ("batch_size", "resolution", "width"):
            if getattr(self, key) < 1:
                raise ConfigurationError(f"{key}={getattr(self, key)}: must be 1 or more")
        if self.network == "resnet18" and self.width != 1:
            raise ConfigurationError(f"widths={self.width}: torchvision's ResNet-18 has one width; take small_cnn")
        if self.network == "vit" and self.resolution % _patch(self.resolution):
            raise ConfigurationError(f"resolutions={self.resolution}: must be a multiple of the ViT's patches")

    def make(self) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
        """The network and a batch, always the same."""
        generator = torch.Generator().manual_seed(0)
        shape = (3, 1024) if self.network == "pointnet" else (3, self.resolution, self.resolution)
        x = torch.randn(self.batch_size, *shape, generator=generator)
        y = torch.randint(10, (self.batch_size,), generator=generator)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return NETWORKS[self.network](self.width, self.resolution), (x, y)


class _Subject(LightningModule):
    """A network trained with cross-entropy and the penalty of a rival."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.penalty: Callable[[], Tensor] | None = None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        output = self.network(batch[0])
        loss = F.cross_entropy(output[0] if isinstance(output, tuple) else output, batch[1])
        return loss if self.penalty is None else loss + 1e-4 * self.penalty()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


def check_arm(name: str) -> None:
    """Refuse an unknown arm."""
    if name not in ARMS:
        raise ConfigurationError(f"arms={name!r}: there are {list(ARMS)}")


class Arm:
    """A module with one regularizer, to be trained a few steps at a time.

    Args:
        name: of the arm.
        subject: the module that is trained.
        batch: what it is trained on, step after step.
        options: further arguments of the Trainer.
        callback: adds the penalty; None: there is none, or it is the module's own.
        every: steps from one penalty to the next.
    """

    def __init__(
        self,
        name: str,
        subject: LightningModule,
        batch: tuple[Tensor, Tensor],
        options: dict[str, Any],
        callback: OrthogonalityCallback | None = None,
        every: int = 1,
    ) -> None:
        self.name = name
        self._subject = subject
        self._batch = batch
        self._options = options
        self._callback = callback
        self._every = every

    def step_times(self, steps: int) -> list[float]:
        """Seconds of each of so many training steps, after one that is not counted."""
        clock = StepClock(left_out=self._every)
        self._fit((steps + 1) * self._every, clock)
        times = clock.times()
        # a lazy penalty comes with every n-th step: the mean over an interval is what a step costs
        return [statistics.fmean(times[i : i + self._every]) for i in range(0, len(times), self._every)]

    def peak_bytes(self) -> int:
        """The most memory that a training step holds at once, parameters and optimizer included."""
        memory = _PeakMemory()
        self._fit(2 * self._every, memory)
        return max(memory.peaks)

    def _fit(self, steps: int, watch: Callback) -> None:
        callbacks = [watch] if self._callback is None else [self._callback, watch]
        trainer = Trainer(
            max_steps=steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=callbacks,
            **self._options,
        )
        batches: Any = [self._batch] * steps
        trainer.fit(self._subject, DataLoader(batches, batch_size=None))


def named_arm(name: str, network: nn.Module, batch: tuple[Tensor, Tensor], options: dict[str, Any]) -> Arm:
    """One of :data:`ARMS` on a copy of a network."""
    check_arm(name)
    subject = _Subject(copy.deepcopy(network))
    if name in RIVALS:
        layers = select_layers(subject, compared(network), unreached(network))
        subject.penalty = RIVALS[name](layers)
    if name in RIVALS or name == "none":
        return Arm(name, subject, batch, options)
    every = 4 if name == "lsh_every_4" else 1
    callback = OrthogonalityCallback(
        LSH() if name == "lsh_every_4" else REGULARIZERS[name](),
        layers=compared(network),
        exclude=unreached(network),
        weight=1e-4,
        every_n_steps=every,
        log_every_n_steps=None,
        log_histograms_every_n_epochs=None,
    )
    return Arm(name, subject, batch, options, callback, every)


def compared(network: nn.Module) -> Callable[[str, nn.Module], bool]:
    """The layers that are penalized: the convolutions of a convolutional network, the usual layers of another."""
    convolutions = (nn.Conv1d, nn.Conv2d)
    convolutional = sum(isinstance(module, convolutions) for module in network.modules()) > 2
    kinds = convolutions if convolutional else (*convolutions, nn.Linear)
    return lambda name, module: isinstance(module, kinds)


def unreached(network: nn.Module) -> str | None:
    """Layers whose forward never runs: attention uses the weight of ``out_proj`` directly."""
    attends = any(isinstance(module, nn.MultiheadAttention) for module in network.modules())
    return "*.out_proj" if attends else None


class _PeakMemory(Callback):
    """The most memory held during each training step: on a CPU from the allocations that torch's profiler records."""

    def __init__(self) -> None:
        self.peaks: list[int] = []
        self._profile: Any = None
        self._before = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return
        state = [value for group in trainer.optimizers[0].state.values() for value in group.values()]
        held = [*pl_module.parameters(), *pl_module.buffers(), *state]
        held += [parameter.grad for parameter in pl_module.parameters()]
        self._before = sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.start()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.strategy.root_device.type == "cuda":
            self.peaks.append(torch.cuda.max_memory_allocated())
            return
        self._profile.stop()
        events = [event for event in self._profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        held = peak = self._before
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        self.peaks.append(peak)


@dataclass(frozen=True)
class Cost:
    """What a training step of one arm costs."""

    step_ms: float
    """Median over the rounds, in milliseconds."""
    ratio: float
    """Median over the rounds of the time over that of the first arm in the same round."""
    peak_mb: float
    """In 10^6 bytes."""
    peak_ratio: float


@dataclass(frozen=True)
class Row:
    """One arm of one case; the figures are those of :class:`Cost`."""

    network: str
    batch_size: int
    resolution: int
    width: int
    arm: str
    step_ms: float
    ratio: float
    peak_mb: float
    peak_ratio: float


def measure(case: Case, arms: Sequence[str], rounds: int, steps: int, options: dict[str, Any]) -> list[Row]:
    """The rows of a case; the arguments are those of :func:`alternate`, the first arm is "none"."""
    network, batch = case.make()
    costs = alternate([named_arm(name, network, batch, options) for name in arms], rounds, steps)
    return [Row(**asdict(case), arm=name, **asdict(cost)) for name, cost in costs.items()]


def alternate(arms: Sequence[Arm], rounds: int, steps: int) -> dict[str, Cost]:
    """Train the arms in turns, a few steps at a time, so that whatever slows the machine slows them all.

    Args:
        arms: what is measured; the first is what the others are compared with.
        rounds: turns of each arm.
        steps: timed steps of a turn, of which the fastest counts.
    """
    peaks = {arm.name: arm.peak_bytes() for arm in arms}
    times: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            times[arm.name].append(min(arm.step_times(steps)))
    first = arms[0].name
    return {
        name: Cost(
            step_ms=1000 * statistics.median(own),
            ratio=statistics.median(a / b for a, b in zip(own, times[first], strict=True)),
            peak_mb=peaks[name] / 1e6,
            peak_ratio=peaks[name] / peaks[first],
        )
        for name, own in times.items()
    }
