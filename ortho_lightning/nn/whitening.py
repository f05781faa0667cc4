"""Whitening with beta, gamma and k as a module: fitted once, refitted without data, exported with the network."""

from __future__ import annotations

import math
import numbers
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError, DataError, NotFittedError
from ortho_lightning.files import whole_file
from ortho_lightning.nn import rows

_KEEP: Any = object()  # None is a choice of its own

_FORMAT = "ortho-lightning whitening 1"
# In float64 whatever the module is cast to: every beta, gamma and k comes from these.
_MOMENTS = ("count", "mean", "scatter", "settings", "eigenvalues")
# In the module's dtype, float32 or better.
_TRANSFORM = ("shift", "projection", "back_projection")


class Whitening(nn.Module):
    r"""Centre, rotate and rescale vectors, first k components: :math:`(x - \beta\mu) U \Lambda^{-\gamma/2}`.

    :math:`U \Lambda U^\top` is the eigendecomposition of :math:`\frac{1}{N}\sum (x-\beta\mu)^\top(x-\beta\mu)`,
    eigenvalues from large to small. Components beyond the rank get scale 0 when gamma > 0; the width stays k. Formula:
    J. Su, article 9079 (kexue.fm).

    The moments that it was fitted on stay in the module (and in its ``state_dict``), so that :meth:`refit` needs no
    data. They are float64 and stay it, whatever the module is cast to. The transform is in the module's dtype, float32
    or better: call ``.double()`` before ``fit`` for float64.

    Args:
        n_components: k, 1 or more; None: all d.
        beta: share of the mean that is subtracted; 1 centres, 0 does not.
        gamma: 0 or more; 1 gives components of variance 1, 0 keeps their variances.

    Raises:
        ConfigurationError: for an argument outside its range.

    Example:
        >>> x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [1.0, 9.0], [3.0, 9.0]])
        >>> whitening = Whitening().fit(x)
        >>> whitening(x)
        tensor([[-1., -1.],
                [-1.,  1.],
                [ 1., -1.],
                [ 1.,  1.]])
        >>> whitening.refit(n_components=1, gamma=0.0)(x).flatten()
        tensor([-2., -2.,  2.,  2.])
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor
    settings: Tensor
    eigenvalues: Tensor
    shift: Tensor
    projection: Tensor
    back_projection: Tensor

    def __init__(self, n_components: int | None = None, beta: float = 1.0, gamma: float = 1.0) -> None:
        super().__init__()
        _check(n_components, beta, gamma)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.empty(0, dtype=torch.float64))
        self.register_buffer("scatter", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("settings", _settings(n_components, beta, gamma))
        self.register_buffer("shift", torch.empty(0))
        self.register_buffer("projection", torch.empty(0, 0))
        self.register_buffer("back_projection", torch.empty(0, 0))
        self.register_buffer("eigenvalues", torch.empty(0, dtype=torch.float64))
        self._stale = False  # whether the moments grew since the transform was computed

    @classmethod
    def from_moments(
        cls,
        moments: OF.Moments,
        n_components: int | None = None,
        beta: float = 1.0,
        gamma: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Whitening:
        """A whitening fitted on the vectors whose moments these are; ``dtype`` is that of its transform."""
        module = cls(n_components, beta, gamma).to(dtype)
        module._fit_to(moments)
        return module

    # ---------------------------------------------------------------------------------------------------------- fit

    def fit(self, x: rows.Rows, progress: bool = False) -> Whitening:
        """Fit on ``x`` alone, forgetting what was before.

        Args:
            x: ``(N, d)`` tensor, array or memory map, or an iterable of such batches; any floating point. One pass;
                nothing of its size is made. The work is done where the vectors lie.
            progress: show a bar with the rows read so far.

        Raises:
            ValueError: for fewer than two rows, fewer columns than ``n_components``, or NaN or infinity, naming the
                row. The module stays as it was.
            TypeError: for what is not floating point.
        """
        moments = rows.moments_of(x, progress, n_components=self.n_components)
        self._fit_to(moments)
        self._warn_of_null_components()
        return self

    def partial_fit(self, batch: rows.Rows) -> Whitening:
        """Join more vectors to those fitted on; the transform follows when it is next used.

        In whatever order batches come, the moments are those of all rows joined, up to rounding.

        Raises:
            ValueError, TypeError: as :meth:`fit`, and for vectors of another size. The module stays as it was. That
                there are two rows is asked for when the transform is needed.
        """
        known = self.moments
        joined = rows.moments_of(batch, first_row=known.count, n_components=self.n_components)
        if known.count:
            joined = known.merge(joined.to(known.mean.device))
        self._check_width(joined)
        self._keep(joined)
        self._stale = True
        return self

    def refit(self, *, beta: float = _KEEP, gamma: float = _KEEP, n_components: int | None = _KEEP) -> Whitening:
        """Other hyper-parameters for the same data, from the moments alone; what is not given stays.

        Raises:
            NotFittedError: before a fit.
            ConfigurationError, ValueError: for an argument outside its range, or fewer than two rows. The module stays
                as it was.
        """
        chosen = (
            self.n_components if n_components is _KEEP else n_components,
            self.beta if beta is _KEEP else beta,
            self.gamma if gamma is _KEEP else gamma,
        )
        _check(*chosen)
        moments = self._fitted_moments()
        self._check_width(moments, chosen[0])
        before, self.settings = self.settings, _settings(*chosen).to(self.settings.device)
        try:
            self._fit_to(moments)
        except Exception:
            self.settings = before
            raise
        self._warn_of_null_components()
        return self

    def _fit_to(self, moments: OF.Moments) -> None:
        self._check_width(moments)
        beta, gamma = self.beta, self.gamma
        eigenvalues, axes = OF.principal_axes(moments, beta)
        scales = OF.whitening_scales(eigenvalues, gamma)
        k = self.n_components or moments.d
        inverse_scales = torch.where(scales > 0, 1 / torch.where(scales > 0, scales, 1.0), 0.0)
        transform = {
            "shift": beta * moments.mean,
            "projection": (axes * scales)[:, :k],
            "back_projection": (axes * inverse_scales)[:, :k].mT,
        }
        dtype = self.projection.dtype
        if not all(values.to(dtype).isfinite().all() for values in transform.values()):
            raise ConfigurationError(
                f"beta={beta}, gamma={gamma}: the transform of these vectors overflows {dtype}; take a smaller gamma, "
                "rescale the vectors, or call .double() before fit"
            )
        self._keep(moments)
        self._set("eigenvalues", eigenvalues)
        for name, values in transform.items():
            self._set(name, values)
        self._stale = False

    def _keep(self, moments: OF.Moments) -> None:
        self._set("count", torch.tensor(moments.count))
        self._set("mean", moments.mean)
        self._set("scatter", moments.scatter)

    def _set(self, name: str, values: Tensor) -> None:
        """Give a buffer other values, where and in the dtype that it is."""
        old = getattr(self, name)
        setattr(self, name, values.to(old.device, old.dtype).contiguous())

    def _check_width(self, moments: OF.Moments, n_components: Any = _KEEP) -> None:
        k = self.n_components if n_components is _KEEP else n_components
        if k is not None and k > moments.d:
            raise rows.too_narrow(k, moments.d)

    def _warn_of_null_components(self) -> None:
        width = self.projection.shape[1]
        if self.gamma > 0 and self.rank < width:
            warnings.warn(
                f"the vectors span {self.rank} of {len(self.mean)} dimensions, so {width - self.rank} of {width} "
                f"components are 0; n_components={max(self.rank, 1)} leaves them out",
                stacklevel=3,
            )

    # -------------------------------------------------------------------------------------------------- what was fitted

    @property
    def n_components(self) -> int | None:
        """k as asked for; None: all."""
        return None if self.settings[0] < 0 else int(self.settings[0])

    @property
    def beta(self) -> float:
        """Share of the mean that is subtracted."""
        return float(self.settings[1])

    @property
    def gamma(self) -> float:
        """Exponent of the rescaling."""
        return float(self.settings[2])

    @property
    def moments(self) -> OF.Moments:
        """Count, mean and scatter matrix of all vectors fitted on; float64."""
        return OF.Moments(int(self.count), self.mean, self.scatter)

    @property
    def fitted_shape(self) -> tuple[int, int]:
        """d and k: how many numbers a vector has before and after."""
        d, k = self._ready().projection.shape
        return d, k

    @property
    def spectrum(self) -> Tensor:
        r"""All d eigenvalues of :math:`\Sigma(\beta)`, from large to small; float64."""
        return self._ready().eigenvalues

    @property
    def explained_variance_ratio(self) -> Tensor:
        """Share of each kept component in the sum of all eigenvalues, ``(k,)``; zeros for data without variance."""
        spectrum = self.spectrum
        total = spectrum.sum()
        return spectrum[: self.projection.shape[1]] / torch.where(total > 0, total, 1.0)

    @property
    def rank(self) -> int:
        """How many components have variance, by the rank rule of :func:`~ortho_lightning.functional.numerical_rank`."""
        return OF.numerical_rank(self.spectrum)

    @property
    def effective_rank(self) -> float:
        """Over how many directions the variance is spread; see :func:`~ortho_lightning.functional.effective_rank`."""
        return OF.effective_rank(self.spectrum)

    # ---------------------------------------------------------------------------------------------------- the transform

    def forward(self, x: Any) -> Tensor:
        """Whitened vectors ``(..., k)`` of ``(..., d)``, a tensor or an array; float32 or better, also under autocast.

        Raises:
            NotFittedError: before a fit.
            ValueError: for vectors of another size.
        """
        self._ready()
        x = rows.as_tensor(x, self.projection.device)
        if x.shape[-1] != self.projection.shape[0]:
            raise ValueError(f"vectors of {x.shape[-1]} numbers: fitted on vectors of {self.projection.shape[0]}")
        x, shift, projection = self._alike(x, self.shift, self.projection)
        return _in_full(lambda: (x - shift) @ projection, x)

    def inverse(self, y: Any) -> Tensor:
        """The vectors ``(..., d)`` that ``(..., k)`` came from: exact when k = d = rank, else those nearest to beta mu.

        They are beta mu plus the pseudo-inverse of the projection, the solution of smallest norm.

        Raises:
            NotFittedError, ValueError: as :meth:`forward`.
        """
        self._ready()
        y = rows.as_tensor(y, self.projection.device)
        if y.shape[-1] != self.back_projection.shape[0]:
            raise ValueError(f"vectors of {y.shape[-1]} numbers: the whitening gives {self.back_projection.shape[0]}")
        y, shift, back = self._alike(y, self.shift, self.back_projection)
        return _in_full(lambda: y @ back + shift, y)

    @staticmethod
    def _alike(x: Tensor, *buffers: Tensor) -> tuple[Tensor, ...]:
        dtype = torch.promote_types(x.dtype, buffers[0].dtype)
        return x.to(dtype), *(buffer.to(dtype) for buffer in buffers)

    def _ready(self) -> Whitening:
        if self._stale:
            self._fit_to(self._fitted_moments())
        if self.projection.numel() == 0:
            raise NotFittedError("this Whitening is not fitted: call fit(x), or load a fitted one")
        return self

    def _fitted_moments(self) -> OF.Moments:
        moments = self.moments
        if moments.count == 0:
            raise NotFittedError("this Whitening is not fitted: call fit(x), or load a fitted one")
        return moments

    # ------------------------------------------------------------------------------------------------ dtype and storage

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Whitening:
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
            self._ready()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        # the state says how large the buffers are
        for name in (*_MOMENTS, *_TRANSFORM):
            stored = state_dict.get(prefix + name)
            if isinstance(stored, Tensor):
                setattr(self, name, getattr(self, name).new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        # saved after a first batch of one row: moments without a transform
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
    def load(cls, path: str | os.PathLike[str]) -> Whitening:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: for a file that is missing, truncated or something else, naming it.
        """
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path} cannot be read as a whitening: {error}. Fit and save it again") from error
        return cls.from_state(tensors, str(path))

    @classmethod
    def from_state(cls, state: dict[str, Tensor], source: str = "the state") -> Whitening:
        """A whitening with the dtype and everything else of a ``state_dict``; ``source`` is named in errors."""
        d = state["mean"].numel() if isinstance(state.get("mean"), Tensor) else 0
        expected = {"scatter": (d, d), "shift": (d,), "eigenvalues": (d,), "settings": (3,)}
        if (
            set(state) != {*_MOMENTS, *_TRANSFORM}
            or any(state[name].shape != shape for name, shape in expected.items())
            or state["projection"].shape != state["back_projection"].mT.shape
            or state["projection"].shape[0] != d
        ):
            raise DataError(f"{source} holds {sorted(state)}, not the tensors of a whitening")
        module = cls().to(state["projection"].dtype)
        module.load_state_dict(state)
        return module

    def extra_repr(self) -> str:
        fitted = f", {int(self.count)} vectors of {len(self.mean)} numbers" if int(self.count) else ", not fitted"
        return f"n_components={self.n_components}, beta={self.beta:g}, gamma={self.gamma:g}{fitted}"


def _check(n_components: Any, beta: Any, gamma: Any) -> None:
    if n_components is not None and (
        not isinstance(n_components, numbers.Integral) or isinstance(n_components, bool) or n_components < 1
    ):
        raise ConfigurationError(f"n_components={n_components!r}: must be an integer of 1 or more, or None for all")
    if not _is_number(beta) or not math.isfinite(beta):
        raise ConfigurationError(f"beta={beta!r}: must be a number; 1 subtracts the mean, 0 does not")
    if not _is_number(gamma) or not (gamma >= 0 and math.isfinite(gamma)):
        raise ConfigurationError(f"gamma={gamma!r}: must be 0 or a positive number")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _settings(n_components: int | None, beta: float, gamma: float) -> Tensor:
    return torch.tensor([-1 if n_components is None else n_components, beta, gamma], dtype=torch.float64)


def _in_full(compute: Callable[[], Tensor], x: Tensor) -> Tensor:
    """Without autocast, which would make the product bfloat16."""
    if not torch.is_autocast_enabled(x.device.type):
        return compute()
    with torch.autocast(x.device.type, enabled=False):
        return compute()
