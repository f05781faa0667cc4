"""Baselines: other penalties and constraints that a user could write or install."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.filters import effective_weight

Penalty = Callable[[], Tensor]


def recipe(layers: dict[str, nn.Module]) -> Penalty:
    """Return the article's recipe, line by line: tanh, normalize, k x k products over all outputs of the batch."""
    outputs: list[Tensor] = []
    for layer in layers.values():
        layer.register_forward_hook(lambda module, _, output: outputs.append(_samples(module, output)))

    def penalty() -> Tensor:
        total = torch.stack([_recipe_of(z) for z in outputs]).sum()
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


def srip(layers: dict[str, nn.Module]) -> Penalty:
    """Return the spectral restricted isometry penalty (Bansal et al. 2018) with one power iteration."""
    generator = torch.Generator().manual_seed(0)

    def of_layer(layer: nn.Module) -> Tensor:
        w = effective_weight(layer).flatten(1)
        w = w if len(w) <= w.shape[1] else w.T
        difference = w @ w.T - torch.eye(len(w), device=w.device)
        u = F.normalize(torch.rand(len(w), 1, generator=generator).to(w.device), dim=0)
        v = F.normalize(difference @ u, dim=0)
        return (difference @ v).norm() ** 2

    return lambda: torch.stack([of_layer(layer) for layer in layers.values()]).sum()


def ocnn(layers: dict[str, nn.Module]) -> Penalty:
    """Return the self-convolution penalty (Wang et al. 2020), and the Gram penalty for linear layers."""

    def of_layer(layer: nn.Module) -> Tensor:
        w = effective_weight(layer)
        if not isinstance(layer, nn.Conv2d):
            w = w.flatten(1)[:, :, None, None]
        stride = layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
        products = F.conv2d(w, w, stride=stride, padding=(w.shape[-1] - 1) // stride * stride)
        target = torch.zeros_like(products)
        middle = products.shape[-1] // 2
        target[:, :, middle, middle] = torch.eye(len(w), device=w.device)
        return ((products - target) ** 2).sum()

    return lambda: torch.stack([of_layer(layer) for layer in layers.values()]).sum()


class _Flat(nn.Module):
    """A kernel as a matrix, for parametrizations of matrices."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().flatten(1).clone())


class _FromFlat(nn.Module):
    """Parametrization of a layer's weight by the matrix of another module."""

    def __init__(self, flat: nn.Module) -> None:
        super().__init__()
        self.flat = flat

    def forward(self, weight: Tensor) -> Tensor:
        matrix: Tensor = self.flat.weight  # type: ignore[assignment]
        return matrix.view(weight.shape)


def _parametrized(layers: dict[str, nn.Module], constrain: Callable[[nn.Module], object]) -> None:
    for layer in layers.values():
        flat = _Flat(effective_weight(layer))
        constrain(flat)
        parametrize.register_parametrization(layer, "weight", _FromFlat(flat))


def orthogonal(layers: dict[str, nn.Module]) -> None:
    """Apply ``torch.nn.utils.parametrizations.orthogonal`` with its defaults to the flattened kernels."""
    _parametrized(layers, lambda flat: parametrizations.orthogonal(flat))


def geotorch(layers: dict[str, nn.Module]) -> None:
    """Apply ``geotorch.orthogonal`` with its defaults to the flattened kernels."""
    library = _installed("geotorch")
    _parametrized(layers, lambda flat: library.orthogonal(flat, "weight"))  # type: ignore[attr-defined]


def _installed(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigurationError(f"arms: {name!r} needs the package of that name: pip install {name}") from None


BASELINES: dict[str, Callable[[dict[str, nn.Module]], Penalty | None]] = {
    baseline.__name__: baseline for baseline in (recipe, gram_by_hand, srip, ocnn, orthogonal, geotorch)
}
