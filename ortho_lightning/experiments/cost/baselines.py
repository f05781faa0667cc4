"""Baselines: other penalties and constraints that a user could write or install."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ortho_lightning.layers.constraint import Constraint, constrain
from ortho_lightning.layers.filters import effective_weight

Penalty = Callable[[], Tensor]


def recipe(layers: dict[str, nn.Module]) -> Penalty:
    """Return the article's recipe, line by line: tanh, normalize, k x k products over all outputs of the batch."""
    outputs: dict[nn.Module, Tensor] = {}  # of the last forward
    for layer in layers.values():
        layer.register_forward_hook(lambda module, _, output: outputs.update({module: _samples(module, output)}))

    def penalty() -> Tensor:
        total = torch.stack([_recipe_of(z) for z in outputs.values()]).sum()
        outputs.clear()
        return total

    return penalty


def _samples(layer: nn.Module, output: Tensor) -> Tensor:
    return (output if isinstance(layer, nn.Linear) else output.movedim(1, -1)).flatten(0, -2)


def _recipe_of(z: Tensor) -> Tensor:
    y = torch.tanh(10 * z)
    y = F.normalize(y, dim=0)
    similarity = y.T @ y
    similarity = similarity - torch.diag(torch.diag(similarity))
    return 100 * similarity.mean() ** 2 + (similarity**2).mean()


def gram_by_hand(layers: dict[str, nn.Module]) -> Penalty:
    """Return ``|W^T W - I|^2`` summed over the layers, written directly."""

    def of_layer(layer: nn.Module) -> Tensor:
        w = effective_weight(layer).flatten(1)
        return ((w @ w.T - torch.eye(len(w), device=w.device)) ** 2).sum()

    return lambda: torch.stack([of_layer(layer) for layer in layers.values()]).sum()


def hard(layers: dict[str, nn.Module]) -> None:
    """Constrain the filters by ``torch.nn.utils.parametrizations.orthogonal`` with its defaults."""
    _constrain(layers, Constraint())


def geotorch(layers: dict[str, nn.Module]) -> None:
    """Constrain the filters by ``geotorch.orthogonal`` with its defaults."""
    _constrain(layers, Constraint("geotorch"))


def _constrain(layers: dict[str, nn.Module], constraint: Constraint) -> None:
    for name, layer in layers.items():
        constrain(name, layer, constraint)


BASELINES: dict[str, Callable[[dict[str, nn.Module]], Penalty | None]] = {
    baseline.__name__: baseline for baseline in (recipe, gram_by_hand, hard, geotorch)
}
