"""Callback that keeps the filters of chosen layers orthogonal while a network trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import nn

from ortho_lightning.callbacks.base import LightningCallback
from ortho_lightning.callbacks.monitoring.arguments import check_name
from ortho_lightning.errors import ConfigurationError, LayerSelectionError
from ortho_lightning.layers.constraint import (
    Constraint,
    Method,
    OrthogonalMap,
    check_unshared,
    constrain,
    constraint_of,
    release,
)
from ortho_lightning.layers.selection import Layers, check_selection, select_layers

_SHARDING = {"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"}
_HALF = ("16-true", "bf16-true")


class OrthogonalConstraint(LightningCallback):
    """Constrain the filters of chosen layers to be orthogonal, as an alternative to a penalty.

    Before the optimizers are made, the weight of each layer is parametrized: the optimizer trains a free tensor, and
    the weight is an orthogonal matrix at every moment, that of the layer's filters, ``(k, d)`` or one for each group.
    Where k <= d its rows are orthonormal. Where k > d its columns are, since k filters in fewer dimensions cannot be
    orthogonal. The filters begin as the orthogonal ones nearest to those of the model.

    The model stays parametrized after ``fit``; :meth:`remove` makes its weights ordinary parameters. A checkpoint holds
    the free tensors. ``fit(ckpt_path=...)`` resumes from it. ``validate``, ``test`` and ``predict`` read it into a new
    model if their Trainer has this callback. Without a Trainer, call :meth:`apply` on the model before
    ``load_state_dict``.

    Lengths of filters are fixed, so weight decay on the free tensors only pulls them to where they began: give them
    none. Callbacks that copy the model in ``setup``, as averages of weights do, come after this one in the Trainer's
    list. A parametrized model can be copied, but torch does not pickle it.

    Args:
        layers: None for every Conv1d/2d/3d and Linear with two or more filters; a shell-style pattern for the whole
            dotted name (``"layer*.conv*"``), a list of patterns, or a predicate ``(name, module) -> bool``.
        exclude: layers to leave out, likewise.
        method: "orthogonal", :func:`torch.nn.utils.parametrizations.orthogonal`; or "geotorch", the package of that
            name.
        orthogonal_map: from free tensors to orthogonal matrices: "matrix_exp", "cayley", or "householder", which
            geotorch does not have. None: that of the method; see
            :class:`~ortho_lightning.layers.constraint.Constraint`.
        use_trivialization: also keep the matrices that training began with, ``n x n`` with n the larger of k and d.
            False needs "householder".
        radius: with "geotorch": singular values stay within this of 1, from 0, exactly orthogonal, to 1.
        name: part of the checkpoint key. Several callbacks need several names.

    Raises:
        ConfigurationError: for an argument outside its range, naming it; from ``fit`` for a selection without layers, a
            strategy that shards weights, weights of 16 bits, or layers that are made after the constraint.
        UnsupportedLayerError: from ``fit`` for a layer whose weight is not its own parameter, or another's as well.

    Example::

        constraint = OrthogonalConstraint(layers="layer*.conv*")
        Trainer(callbacks=[constraint, AngleMonitor(layers="layer*.conv*")]).fit(module, data)
        constraint.remove()  # ordinary weights, to export or to go on without the constraint
    """

    def __init__(
        self,
        layers: Layers = None,
        exclude: Layers = None,
        method: Method = "orthogonal",
        orthogonal_map: OrthogonalMap | None = None,
        use_trivialization: bool = True,
        radius: float = 0.0,
        name: str = "constraint",
    ) -> None:
        check_selection("layers", layers)
        check_selection("exclude", exclude)
        check_name(name)
        self.layers = layers
        self.exclude = exclude
        self.constraint = Constraint(method, orthogonal_map, use_trivialization, radius)
        self.name = name
        self._module: nn.Module | None = None
        self._handle: Any = None

    @property
    def state_key(self) -> str:
        """Key of the callback in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Constrain the layers for ``fit``; otherwise if a checkpoint is loaded that needs it."""
        super().setup(trainer, pl_module, stage)
        self._close()
        self._module = pl_module
        if stage != "fit":
            self._handle = pl_module.register_load_state_dict_pre_hook(self._on_loading())
            return
        self.constraint.check_installed()
        _check_trainer(trainer)
        with contextlib.suppress(LayerSelectionError):  # perhaps configure_model makes them and calls apply
            self.apply(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that all layers are constrained, also those that ``configure_model`` made.

        Raises:
            ConfigurationError: naming those that are not.
        """
        selected = select_layers(pl_module, self.layers, self.exclude)
        free = [name for name, layer in selected.items() if constraint_of(layer) != self.constraint]
        if free:
            raise ConfigurationError(
                f"layers {free} were made after the constraint, and the optimizers hold their weights already: make "
                "them in __init__, or call the callback's apply(self) at the end of configure_model"
            )

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take no part in loading any more; the layers stay as they are."""
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take no part in loading any more; the layers stay as they are."""
        self._close()

    def apply(self, module: nn.Module) -> None:
        """Constrain the selected layers of a model now; those that are stay as they are.

        Optimizers must be made afterwards. ``fit`` calls this.

        Args:
            module: any module; the names of the selection are from its top.

        Raises:
            LayerSelectionError: if the selection matches no layer.
            UnsupportedLayerError: for a layer whose weight is not its own parameter, or another's as well.
            ConfigurationError: for a layer that is constrained in another way, or if geotorch is not installed.
        """
        self.constraint.check_installed()
        selected = select_layers(module, self.layers, self.exclude)
        check_unshared(module, selected)
        for name, layer in selected.items():
            constrain(name, layer, self.constraint)
        self._module = module

    def remove(self, module: nn.Module | None = None) -> None:
        """Make the weights of the selected layers ordinary parameters, with their present values.

        Optimizers that train the free tensors must not be used any more: call this after ``fit``.

        Args:
            module: the model; None: that of the last ``fit`` or :meth:`apply`.

        Raises:
            ConfigurationError: without a module before the first of them.
        """
        module = self._module if module is None else module
        if module is None:
            raise ConfigurationError("remove: nothing is constrained yet; give the module, as in remove(module)")
        for layer in select_layers(module, self.layers, self.exclude).values():
            release(layer)

    def _on_loading(self) -> Callable[..., None]:
        """Return a hook that constrains the layers which are constrained in the state that is loaded."""

        def hook(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
            parts = (name for name, _ in module.named_modules())
            if any(f"{prefix}{name}.parametrizations.weight.0.signs" in state for name in parts):
                self.apply(module)

        return hook

    def _close(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


def _check_trainer(trainer: Any) -> None:
    strategy = type(trainer.strategy)
    if _SHARDING & {kind.__name__ for kind in strategy.__mro__}:
        raise ConfigurationError(
            f"OrthogonalConstraint under strategy {strategy.__name__}: a shard of a matrix cannot be made orthogonal. "
            "Use one device or ddp, or a penalty (OrthogonalityCallback)."
        )
    if trainer.precision in _HALF:
        raise ConfigurationError(
            f"OrthogonalConstraint with precision={trainer.precision!r}: orthogonality needs float32 or better; use "
            f"{trainer.precision.replace('true', 'mixed')!r}"
        )
