"""Storage of a whitening: its buffers, their dtypes, and the file that holds them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ortho_lightning import functional as OF
from ortho_lightning.errors import DataError, NotFittedError
from ortho_lightning.files import whole_file
from ortho_lightning.nn.hyperparameters import LEDOIT_WOLF, Hyperparameters, Shrinkage

_FORMAT = "ortho-lightning whitening 2"
# Names in files and in state_dict. Always float64: every transform is computed from these.
_MOMENTS = ("count", "mean", "scatter", "settings", "eigenvalues", "sums", "cubic")
# In the module's dtype, float32 or better.
_TRANSFORM = ("shift", "projection", "back_projection")
# Files of version 1 have neither these nor the last two settings.
_SINCE_VERSION_2 = ("sums", "cubic")

_DEFAULTS = Hyperparameters()

W = TypeVar("W", bound="WhiteningBuffers")


class WhiteningBuffers(nn.Module):
    """The tensors of a whitening: float64 moments and hyper-parameters, and the transform in the module's dtype.

    A subclass computes the transform in :meth:`_update` and fills the buffers with the ``_set_`` methods.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor
    sums: Tensor
    cubic: Tensor
    settings: Tensor
    eigenvalues: Tensor
    shift: Tensor
    projection: Tensor
    back_projection: Tensor

    def __init__(self, hyperparameters: Hyperparameters = _DEFAULTS) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.empty(0, dtype=torch.float64))
        self.register_buffer("scatter", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("sums", _encoded_sums(OF.Moments.empty(0)))
        self.register_buffer("cubic", torch.empty(0, dtype=torch.float64))
        self.register_buffer("settings", _encoded(hyperparameters))
        self.register_buffer("shift", torch.empty(0))
        self.register_buffer("projection", torch.empty(0, 0))
        self.register_buffer("back_projection", torch.empty(0, 0))
        self.register_buffer("eigenvalues", torch.empty(0, dtype=torch.float64))
        self._stale = False  # the moments are newer than the transform

    @property
    def moments(self) -> OF.Moments:
        """Count, mean, scatter matrix and higher moments of all vectors fitted on; float64."""
        total, squares, _, precision = self.sums.tolist()
        count = int(self.count)
        weights = None if total == squares == count else OF.WeightSums(total, squares)
        tails = OF.Tails(self.cubic, self.sums[2]) if len(self.cubic) else None
        return OF.Moments(count, self.mean, self.scatter, weights, tails, precision)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The values of n_components, beta, gamma, shrinkage and eps, in one object."""
        k, beta, gamma, shrinkage, eps = self.settings.tolist()
        return Hyperparameters(None if k < 0 else int(k), beta, gamma, LEDOIT_WOLF if shrinkage < 0 else shrinkage, eps)

    @property
    def n_components(self) -> int | None:
        """The requested k, or None for all d."""
        return self.hyperparameters.n_components

    @property
    def beta(self) -> float:
        """Share of the mean that is subtracted."""
        return self.hyperparameters.beta

    @property
    def gamma(self) -> float:
        """Exponent of the rescaling."""
        return self.hyperparameters.gamma

    @property
    def shrinkage(self) -> Shrinkage:
        """The requested shrinkage, a number or "ledoit-wolf"."""
        return self.hyperparameters.shrinkage

    @property
    def eps(self) -> float:
        """Number added to every eigenvalue."""
        return self.hyperparameters.eps

    def _update(self) -> None:
        raise NotImplementedError

    def _ready(self) -> None:
        if self._stale:
            self._update()
        if self.projection.numel() == 0:
            raise not_fitted()

    def _set_moments(self, moments: OF.Moments) -> None:
        self._set("count", torch.tensor(moments.count))
        self._set("mean", moments.mean)
        self._set("scatter", moments.scatter)
        self._set("sums", _encoded_sums(moments))
        self._set("cubic", moments.mean.new_empty(0) if moments.tails is None else moments.tails.cubic)

    def _set_hyperparameters(self, hyperparameters: Hyperparameters) -> None:
        self._set("settings", _encoded(hyperparameters))

    def _set_transform(self, eigenvalues: Tensor, transform: Mapping[str, Tensor]) -> None:
        self._set("eigenvalues", eigenvalues)
        for name, values in transform.items():
            self._set(name, values)

    def _set(self, name: str, values: Tensor) -> None:
        """Replace the values of a buffer, keeping its device and dtype."""
        old = getattr(self, name)
        setattr(self, name, values.to(old.device, old.dtype).contiguous())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WhiteningBuffers:
        moments = {name: self._buffers.pop(name) for name in _MOMENTS}
        transform = {name: getattr(self, name) for name in _TRANSFORM}
        try:
            super()._apply(fn, recurse)
        finally:
            device = self.projection.device
            # MPS has no float64: there the moments stay on the CPU
            for name, buffer in moments.items():
                self._buffers[name] = buffer if device.type == "mps" else buffer.to(device)  # type: ignore[union-attr]
        for name, before in transform.items():
            after = getattr(self, name)
            if after.dtype.itemsize < 4:
                setattr(self, name, before.to(after.device, torch.float32))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self._stale and self.moments.count >= 2:
            self._update()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        _complete(state_dict, prefix)
        # the state decides the shapes of the buffers
        for name in (*_MOMENTS, *_TRANSFORM):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor):
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        # saved after a first batch of one vector: moments without a transform
        self._stale = int(self.count) > 0 and self.projection.numel() == 0

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write moments, hyper-parameters and transform to a safetensors file, whole or not at all.

        Raises:
            NotFittedError: before a fit.
        """
        self._ready()
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with whole_file(Path(path)) as temporary:
            save_file(tensors, temporary, metadata={"format": _FORMAT})

    @classmethod
    def load(cls: type[W], path: str | os.PathLike[str]) -> W:
        """Read a file that :meth:`save` wrote.

        Raises:
            DataError: for a file that is missing, truncated or of another format, naming it.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read as a whitening: {error}. Fit and save it again") from error
        return cls.from_state(tensors, str(path))

    @classmethod
    def from_state(cls: type[W], state: Mapping[str, Tensor], source: str = "the state") -> W:
        """Return a whitening with the values and the dtype of a ``state_dict``; errors name ``source``.

        Raises:
            DataError: for missing or additional tensors, or shapes that contradict each other.
        """
        d = state["mean"].numel() if isinstance(state.get("mean"), Tensor) else 0
        expected = {"scatter": (d, d), "shift": (d,), "eigenvalues": (d,), "settings": (5,), "sums": (4,)}
        state = dict(state)
        _complete(state, "")
        if (
            set(state) != {*_MOMENTS, *_TRANSFORM}
            or any(state[name].shape != shape for name, shape in expected.items())
            or len(state["cubic"]) not in (0, d)
            or state["projection"].shape != state["back_projection"].mT.shape
            or state["projection"].shape[0] != d
        ):
            raise DataError(f"{source} holds {sorted(state)}, not the tensors of a whitening")
        module = cls().to(state["projection"].dtype)
        module.load_state_dict(state)
        return module

    def extra_repr(self) -> str:
        """Return the hyper-parameters and the size of the data, for ``repr``."""
        chosen = self.hyperparameters
        fitted = f", {int(self.count)} vectors of {len(self.mean)} numbers" if int(self.count) else ", not fitted"
        regularized = (f", shrinkage={chosen.shrinkage}" if chosen.shrinkage else "") + (
            f", eps={chosen.eps:g}" if chosen.eps else ""
        )
        return f"n_components={chosen.n_components}, beta={chosen.beta:g}, gamma={chosen.gamma:g}{regularized}{fitted}"


def _encoded(hyperparameters: Hyperparameters) -> Tensor:
    k = -1 if hyperparameters.n_components is None else hyperparameters.n_components
    shrinkage = -1.0 if isinstance(hyperparameters.shrinkage, str) else hyperparameters.shrinkage
    values = [k, hyperparameters.beta, hyperparameters.gamma, shrinkage, hyperparameters.eps]
    return torch.tensor(values, dtype=torch.float64)


def _encoded_sums(moments: OF.Moments) -> Tensor:
    """Sum of the weights, of their squares, of the fourth powers (NaN: unknown), and the products' precision."""
    quartic = math.nan if moments.tails is None else float(moments.tails.quartic)
    return torch.tensor([moments.total, moments.squares, quartic, moments.precision], dtype=torch.float64)


def _complete(state: dict[str, Any], prefix: str) -> None:
    """Add to a state of version 1 what it lacks."""
    names = {name: prefix + name for name in (*_MOMENTS, *_TRANSFORM)}
    if any(names[name] in state for name in _SINCE_VERSION_2) or names["mean"] not in state:
        return
    settings, mean, count = (state.get(names[name]) for name in ("settings", "mean", "count"))
    if not all(isinstance(value, Tensor) for value in (settings, mean, count)) or len(settings) != 3:  # type: ignore[arg-type]
        return
    state[names["settings"]] = torch.cat([settings, settings.new_zeros(2)])  # type: ignore[list-item, union-attr]
    moments = OF.Moments(int(count), mean, mean.new_empty(0))  # type: ignore[arg-type, union-attr]
    state[names["sums"]] = _encoded_sums(moments).to(mean.device)  # type: ignore[union-attr]
    state[names["cubic"]] = mean.new_empty(0)  # type: ignore[union-attr]


def not_fitted() -> NotFittedError:
    """Return the error for a whitening that is used before a fit."""
    return NotFittedError("this Whitening is not fitted: call fit(x), or load a fitted one")
