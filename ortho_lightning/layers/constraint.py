"""Constraint of a layer's filters to be orthogonal: its weight is parametrized, so that no step can leave the set.

The weight becomes a function of a free tensor, which the optimizer trains in its place. The matrix of a layer holds its
filters, ``(groups, k, d)``, each group on its own. Its rows are orthonormal where k <= d. Where k > d no k filters can
be orthogonal, and its columns are orthonormal instead.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, parametrize

from ortho_lightning.errors import ConfigurationError, UnsupportedLayerError

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONSTRAINED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)

Method = Literal["orthogonal", "geotorch"]
OrthogonalMap = Literal["matrix_exp", "cayley", "householder"]

_GEOTORCH_MAPS = {None: "expm", "matrix_exp": "expm", "cayley": "cayley"}
_SEED = 0  # of the random completions of a basis, which change no filter


@dataclass(frozen=True)
class Constraint:
    """A way to parametrize orthogonal matrices.

    Args:
        method: "orthogonal", that of :func:`torch.nn.utils.parametrizations.orthogonal`; or "geotorch", those of the
            package of that name.
        orthogonal_map: from free tensors to orthogonal matrices. None: with "orthogonal", "matrix_exp" for square
            matrices and "householder" for others; with "geotorch", which has no "householder", "matrix_exp".
        use_trivialization: keep the matrix that training began with, ``n x n`` with n the larger of k and d, and train
            the rotation from it; geotorch always does. False saves that memory, and needs "householder".
        radius: with "geotorch": all singular values stay in [1 - radius, 1 + radius], by
            ``geotorch.almost_orthogonal``; 0: they are 1, by ``geotorch.orthogonal``.

    Raises:
        ConfigurationError: for a value outside its range, or that the method does not have.
    """

    method: Method = "orthogonal"
    orthogonal_map: OrthogonalMap | None = None
    use_trivialization: bool = True
    radius: float = 0.0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigurationError(f"method={self.method!r}: must be one of {get_args(Method)}")
        if self.orthogonal_map is not None and self.orthogonal_map not in get_args(OrthogonalMap):
            raise ConfigurationError(
                f"orthogonal_map={self.orthogonal_map!r}: must be None or one of {get_args(OrthogonalMap)}"
            )
        is_number = isinstance(self.radius, (int, float)) and not isinstance(self.radius, bool)
        if not is_number or not 0 <= self.radius <= 1:
            raise ConfigurationError(f"radius={self.radius!r}: must be a number from 0 to 1")
        if self.method == "orthogonal" and self.radius > 0:
            raise ConfigurationError(f"radius={self.radius}: needs method='geotorch'")
        if self.method == "orthogonal" and not self.use_trivialization and self.orthogonal_map != "householder":
            raise ConfigurationError("use_trivialization=False: needs orthogonal_map='householder'")
        if self.method == "geotorch":
            if self.orthogonal_map not in _GEOTORCH_MAPS:
                raise ConfigurationError("orthogonal_map='householder': geotorch has 'matrix_exp' and 'cayley'")
            if not self.use_trivialization:
                raise ConfigurationError("use_trivialization=False: needs method='orthogonal'")

    def check_installed(self) -> None:
        """Reject a method whose package is not installed.

        Raises:
            ConfigurationError: with the command that installs it.
        """
        if self.method == "geotorch":
            _geotorch()

    def manifold(self, filters: Tensor) -> nn.Module:
        """Return the parametrization of matrices of the shape of ``filters``, ``(groups, k, d)``."""
        if self.method == "geotorch":
            size, triv = filters.shape, _GEOTORCH_MAPS[self.orthogonal_map]
            library = _geotorch()
            made = library.AlmostOrthogonal(size, self.radius, triv=triv) if self.radius > 0 else None
            manifold: nn.Module = made or library.Stiefel(size, triv=triv)
            return manifold.to(filters.dtype)
        holder = nn.Module()
        holder.weight = nn.Parameter(filters)
        options: dict[str, Any] = {"use_trivialization": self.use_trivialization}
        parametrizations.orthogonal(holder, "weight", self.orthogonal_map, **options)
        return cast(nn.ModuleDict, holder.parametrizations)["weight"][0]  # type: ignore[index]


class OrthogonalFilters(nn.Module):
    """Parametrization of a layer's weight by orthogonal filters.

    Args:
        layer: whose weight it will be.
        constraint: how its filters are parametrized.
    """

    signs: Tensor

    def __init__(self, layer: nn.Module, constraint: Constraint) -> None:
        super().__init__()
        weight = cast(Tensor, layer.weight)
        self.constraint = constraint
        self._shape = weight.shape
        self._groups = int(getattr(layer, "groups", 1))
        self._transposed = isinstance(layer, _TRANSPOSED)
        filters = self._filters(weight.detach()).cpu()
        with _own_random_numbers():
            self.manifold = constraint.manifold(nearest_orthogonal(filters))
        self.register_buffer("signs", torch.ones(filters.shape[0], min(filters.shape[1:]), dtype=filters.dtype))

    def forward(self, free: Tensor) -> Tensor:
        """Return the weight, in float32 or better also under autocast."""
        if self.constraint.method == "orthogonal":
            # Torch reads the signs of the reflections from the diagonal of the free tensor and truncates them to
            # integers: the slightest weight decay would make them, and with them every filter, 0.
            free = torch.diagonal_scatter(free, self.signs, dim1=-2, dim2=-1)
        with torch.autocast(free.device.type, enabled=False):
            filters: Tensor = self.manifold(free)
        if not self._transposed:
            return filters.reshape(self._shape)
        inputs, _, *kernel = self._shape
        parts = filters.unflatten(2, (inputs // self._groups, *kernel))
        return parts.transpose(1, 2).reshape(self._shape)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """Return the free tensor of the orthogonal filters that are nearest to those of ``weight``.

        It is computed on the CPU, so that it is the same whatever the device.
        """
        filters = nearest_orthogonal(self._filters(weight).cpu())
        with _own_random_numbers():
            free: Tensor = self.manifold.cpu().right_inverse(filters)  # type: ignore[operator]
        self.manifold.to(weight.device)
        free = free.contiguous().to(weight.device)
        self.signs = free.diagonal(dim1=-2, dim2=-1).sign()
        return free

    def _filters(self, weight: Tensor) -> Tensor:
        if self._transposed:
            inputs, outputs = self._shape[:2]
            parts = weight.reshape(self._groups, inputs // self._groups, outputs, -1)
            return parts.transpose(1, 2).flatten(2)
        return weight.reshape(self._groups, self._shape[0] // self._groups, -1)


def nearest_orthogonal(filters: Tensor) -> Tensor:
    """Return the orthogonal matrices nearest to ``filters`` in the Frobenius norm: the polar factors ``U V^T``.

    Args:
        filters: ``(..., k, d)``.

    Example:
        >>> nearest_orthogonal(torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]]))
        tensor([[1., 0., 0.],
                [0., 1., 0.]])
    """
    u, _, vh = torch.linalg.svd(filters.double(), full_matrices=False)
    return (u @ vh).to(filters.dtype)


def constrain(name: str, layer: nn.Module, constraint: Constraint) -> None:
    """Constrain a layer's filters, which begin as the orthogonal ones nearest to its own; once is enough.

    The parameter stays the same object, with another shape, at ``layer.parametrizations.weight.original``.

    Args:
        name: of the layer, for messages.
        layer: a convolution, transposed or not, or a linear layer.
        constraint: how its filters are parametrized.

    Raises:
        UnsupportedLayerError: for a layer of another kind, whose weight is made by something else, or is too short of
            bits.
        ConfigurationError: for a layer that is constrained in another way.
    """
    found = constraint_of(layer)
    if found is not None:
        if found != constraint:
            raise ConfigurationError(f"Layer {name!r} is constrained already, by {found}: release it first")
        return
    if not isinstance(layer, _CONSTRAINED):
        raise UnsupportedLayerError(name, f"{type(layer).__name__} has no kernel that can be constrained")
    weight = layer._parameters.get("weight")
    if weight is None:
        reason = (
            "its weight is made by another parametrization, a pruning or a quantization; a constraint needs its own"
        )
        raise UnsupportedLayerError(name, reason)
    if is_lazy(weight):
        raise UnsupportedLayerError(name, "its weight has no shape yet: run the model once before")
    if weight.dtype not in (torch.float32, torch.float64):
        raise UnsupportedLayerError(
            name, f"its weight is {weight.dtype}, and orthogonality needs float32 or better (mixed precision has that)"
        )
    if not bool(torch.isfinite(weight.detach()).all()):
        raise UnsupportedLayerError(name, "its weight is not finite")
    parametrize.register_parametrization(layer, "weight", OrthogonalFilters(layer, constraint), unsafe=True)


def release(layer: nn.Module) -> None:
    """Make the weight of a constrained layer an ordinary parameter again, with its present value."""
    if constraint_of(layer) is None:
        return
    # Torch makes the property of a class of its own for the layer, which copies of the layer share, and deletes it
    # there: the copies would have no weight any more. So the layer gets a class that nothing shares.
    shared = type(layer)
    kept = {key: value for key, value in vars(shared).items() if key not in ("__dict__", "__weakref__")}
    layer.__class__ = type(shared.__name__, shared.__bases__, kept)
    parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def constraint_of(layer: nn.Module) -> Constraint | None:
    """Return how a layer is constrained, or None if it is not."""
    made = parametrize.is_parametrized(layer, "weight") and layer.parametrizations["weight"][0]  # type: ignore[index]
    return made.constraint if isinstance(made, OrthogonalFilters) else None


def constrained_parameters(model: nn.Module) -> list[Tensor]:
    """Return the free tensors of a model's constrained layers; weight decay only pulls them to where they began."""
    return [
        parameter
        for layer in model.modules()
        if constraint_of(layer) is not None
        for parameter in cast(nn.Module, layer.parametrizations).parameters()
    ]


def check_unshared(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Reject a weight that another module uses as well, and would no longer recognize.

    Raises:
        UnsupportedLayerError: naming the layer and the other module.
    """
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in model.named_modules():
        for own, parameter in module._parameters.items():
            owners.setdefault(id(parameter), []).append((f"{name}.{own}".strip("."), module))
    for name, layer in layers.items():
        others = [other for other, module in owners.get(id(layer._parameters.get("weight")), ()) if module is not layer]
        if others and layer._parameters.get("weight") is not None:
            raise UnsupportedLayerError(name, f"its weight is also {others[0]!r}, which a constraint would change")


@contextlib.contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Seed what is drawn on the CPU inside, and leave the global state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_SEED)
        yield


def _geotorch() -> Any:
    try:
        return importlib.import_module("geotorch")
    except ImportError:
        raise ConfigurationError(
            "method='geotorch' needs the package of that name: pip install 'ortho-lightning[geotorch]'"
        ) from None
