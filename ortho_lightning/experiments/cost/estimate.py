"""Quality of the sampled estimate: the penalty and its gradient of some samples and of all, while training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ortho_lightning.data import CIFAR10DataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cost.cases import Case
from ortho_lightning.experiments.cost.networks import compared
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import effective_weight
from ortho_lightning.layers.selection import select_layers
from ortho_lightning.random import mix
from ortho_lightning.regularizers import LSH, LayerView


@dataclass(frozen=True)
class EstimateQuality:
    """One number of samples compared with all of them; means over the measured steps.

    Attributes:
        max_samples: how many samples; None: all.
        penalty: mean over layers of the penalty less its floor.
        relative: mean over layers of that, divided by its value with all samples.
        cosine: between the gradients of the summed penalty on each layer's weight; mean over layers.
        smallest_cosine: of the worst layer.
    """

    max_samples: int | None
    penalty: float
    relative: float
    cosine: float
    smallest_cosine: float


@dataclass(frozen=True)
class _Reading:
    """Penalty less floor, and cosine to the gradient of all samples, of each layer in one step."""

    penalties: list[float]
    cosines: list[float]


class _Watch:
    """The outputs of a network's layers in the last forward."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = select_layers(network, compared(network))
        self.outputs: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            layer.register_forward_hook(
                lambda module, _, output, name=name: self.outputs.update({name: output.clone()})
            )

    def penalties(self, max_samples: int | None, step: int) -> tuple[list[Tensor], list[float]]:
        """Return the penalty of each layer from so many samples, and its floor."""
        regularizer = LSH(max_samples=max_samples)
        views = []
        for number, (name, layer) in enumerate(self.layers.items()):
            sampled = sampling.sample_outputs(layer, self.outputs[name], max_samples, mix(step, number))
            views.append(LayerView(outputs=sampling.as_samples(layer, sampled), name=name, module=layer))
        return regularizer.penalties(views), [regularizer.floor(view) or 0.0 for view in views]

    def gradients(self, penalties: Sequence[Tensor]) -> list[Tensor]:
        weights = [effective_weight(layer) for layer in self.layers.values()]
        return list(torch.autograd.grad(torch.stack(list(penalties)).sum(), weights, retain_graph=True))


def measure(
    root: str, network: str, batch_size: int, max_samples: Sequence[int], steps: int, every: int, weight: float
) -> list[EstimateQuality]:
    """Train on CIFAR-10 with the default penalty, and compare estimates from the same batches.

    Args:
        root: see :class:`~ortho_lightning.data.CIFAR10DataModule`.
        network: one of :data:`~ortho_lightning.experiments.cost.networks.NETWORKS`.
        batch_size: images a batch.
        max_samples: numbers of samples to compare with all of them.
        steps: training steps.
        every: steps from one comparison to the next.
        weight: of the penalty while training.

    Returns:
        The quality of each, that of all samples first.

    Raises:
        ConfigurationError: for values with which no step would be measured, before the data is read.
    """
    Case(network, batch_size, 32, 1).check()
    if not 1 <= every <= steps:
        raise ConfigurationError(f"estimate.every={every}, estimate.steps={steps}: no step would be measured")
    for count in max_samples:
        LSH(max_samples=count)  # raises for a value outside its range
    data = CIFAR10DataModule(root, batch_size=batch_size)
    data.prepare_data()
    data.setup("fit")
    trained, _ = Case(network, batch_size, 32, 1).make()
    watch = _Watch(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    found: dict[int | None, list[_Reading]] = {n: [] for n in (None, *max_samples)}
    for step, (x, y, index) in zip(range(steps), data.train_dataloader(), strict=False):
        loss = F.cross_entropy(trained(data.prepare(data.augmented(x, index, 0))), y)
        if (step + 1) % every == 0:
            for n, reading in _readings(watch, list(found), step).items():
                found[n].append(reading)
        own, _ = watch.penalties(LSH().max_samples, step)
        optimizer.zero_grad()
        (loss + weight * torch.stack(own).sum()).backward()
        optimizer.step()
    return [_quality(n, readings, found[None]) for n, readings in found.items()]


def _readings(watch: _Watch, counts: Sequence[int | None], step: int) -> dict[int | None, _Reading]:
    """One reading for each number of samples; the first is None, all of them."""
    readings: dict[int | None, _Reading] = {}
    whole: list[Tensor] = []
    for n in counts:
        penalties, floors = watch.penalties(n, step)
        gradients = watch.gradients(penalties)
        whole = whole or gradients
        pairs = zip(gradients, whole, strict=True)
        readings[n] = _Reading(
            penalties=[penalty.item() - floor for penalty, floor in zip(penalties, floors, strict=True)],
            cosines=[F.cosine_similarity(own.flatten(), all_.flatten(), 0).item() for own, all_ in pairs],
        )
    return readings


def _quality(n: int | None, readings: list[_Reading], of_all: list[_Reading]) -> EstimateQuality:
    penalties = _mean_over_steps([reading.penalties for reading in readings])
    whole = _mean_over_steps([reading.penalties for reading in of_all])
    cosines = _mean_over_steps([reading.cosines for reading in readings])
    return EstimateQuality(
        max_samples=n,
        penalty=statistics.fmean(penalties),
        relative=statistics.fmean(a / b for a, b in zip(penalties, whole, strict=True)),
        cosine=statistics.fmean(cosines),
        smallest_cosine=min(cosines),
    )


def _mean_over_steps(steps: list[list[float]]) -> list[float]:
    """The mean of each layer."""
    return [statistics.fmean(layer) for layer in zip(*steps, strict=True)]
