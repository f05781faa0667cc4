"""What a sample of the rows tells: the sampled penalty and its gradient against those of all rows, while training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ortho_lightning.data import CIFAR10DataModule
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cost.steps import Case, compared
from ortho_lightning.layers import sampling
from ortho_lightning.layers.filters import effective_weight
from ortho_lightning.layers.selection import select_layers
from ortho_lightning.random import mix
from ortho_lightning.regularizers import LSH


@dataclass(frozen=True)
class Row:
    """A number of rows against all of them: means over the steps looked at."""

    max_samples: int | None
    penalty: float
    """Mean over layers of the penalty less its floor."""
    relative: float
    """Mean over layers of that over the same with all rows."""
    cosine: float
    """Between the gradients, on each layer's weight, of the summed penalty: mean over layers."""
    smallest_cosine: float
    """Of the worst layer."""


class _Watch:
    """Keeps the outputs of a network's layers."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = select_layers(network, compared(network))
        self.outputs: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            layer.register_forward_hook(
                lambda module, _, output, name=name: self.outputs.update({name: output.clone()})
            )

    def penalties(self, max_samples: int | None, step: int) -> tuple[list[Tensor], list[float]]:
        """The penalty of each layer from so many rows, and its floor."""
        regularizer = LSH(max_samples=max_samples)
        rows = []
        for number, (name, layer) in enumerate(self.layers.items()):
            sampled = sampling.sample_outputs(layer, self.outputs[name], max_samples, mix(step, number))
            rows.append(sampling.as_samples(layer, sampled))
        return regularizer.penalties(rows, [0] * len(rows)), [regularizer.floor(each) or 0.0 for each in rows]

    def gradients(self, penalties: Sequence[Tensor]) -> list[Tensor]:
        weights = [effective_weight(layer) for layer in self.layers.values()]
        return list(torch.autograd.grad(torch.stack(list(penalties)).sum(), weights, retain_graph=True))


def measure(
    root: str, network: str, batch_size: int, max_samples: Sequence[int], steps: int, every: int, weight: float
) -> list[Row]:
    """Train on CIFAR-10 with the default penalty and look at every few steps at all the samples of the same batch.

    Raises:
        ConfigurationError: for settings that leave nothing to look at, before the data is read.
    """
    Case(network, batch_size, 32, 1).check()
    if not 1 <= every <= steps:
        raise ConfigurationError(f"estimate.every={every}, estimate.steps={steps}: nothing would be looked at")
    for rows in max_samples:
        LSH(max_samples=rows)
    data = CIFAR10DataModule(root, batch_size=batch_size)
    data.prepare_data()
    data.setup("fit")
    trained, _ = Case(network, batch_size, 32, 1).make()
    watch = _Watch(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    found: dict[int | None, list[tuple[list[float], list[float]]]] = {n: [] for n in (None, *max_samples)}
    for step, (x, y, index) in zip(range(steps), data.train_dataloader(), strict=False):
        loss = F.cross_entropy(trained(data.prepare(data.augmented(x, index, 0))), y)
        if (step + 1) % every == 0:
            whole: list[Tensor] = []
            for n, readings in found.items():
                penalties, floors = watch.penalties(n, step)
                gradients = watch.gradients(penalties)
                whole = whole or gradients
                pairs = zip(gradients, whole, strict=True)
                cosines = [F.cosine_similarity(own.flatten(), all_.flatten(), 0).item() for own, all_ in pairs]
                readings.append(([p.item() - floor for p, floor in zip(penalties, floors, strict=True)], cosines))
        own, _ = watch.penalties(LSH().max_samples, step)
        optimizer.zero_grad()
        (loss + weight * torch.stack(own).sum()).backward()
        optimizer.step()
    return [_row(n, readings, found[None]) for n, readings in found.items()]


def _row(
    n: int | None, readings: list[tuple[list[float], list[float]]], whole: list[tuple[list[float], list[float]]]
) -> Row:
    def over_steps(which: int, of: list[tuple[list[float], list[float]]]) -> list[float]:
        return [statistics.fmean(layer) for layer in zip(*(reading[which] for reading in of), strict=True)]

    penalties, all_rows, cosines = over_steps(0, readings), over_steps(0, whole), over_steps(1, readings)
    return Row(
        max_samples=n,
        penalty=statistics.fmean(penalties),
        relative=statistics.fmean(a / b for a, b in zip(penalties, all_rows, strict=True)),
        cosine=statistics.fmean(cosines),
        smallest_cosine=min(cosines),
    )
