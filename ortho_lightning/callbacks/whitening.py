"""WhiteningCallback: a whitening fitted to a layer's outputs while a network trains."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ortho_lightning.callbacks.base import LightningCallback
from ortho_lightning.callbacks.fitting.checkpoint import load_whitening, state_key
from ortho_lightning.callbacks.fitting.gathering import Gathering
from ortho_lightning.callbacks.fitting.logged import log_whitening
from ortho_lightning.callbacks.fitting.sources import (
    PREDICT_STEP,
    checked_vectors,
    find_layer,
    own_samples,
    predicted,
)
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.hooks import ForwardHook
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.hyperparameters import Hyperparameters


class WhiteningCallback(LightningCallback):
    """Fit a :class:`~ortho_lightning.Whitening` to a layer's outputs, and keep it in the checkpoint.

    The vectors of each validation epoch (except the sanity check) are reduced to their moments batch by batch. At the
    end of the epoch the whitening is fitted, logged, and stored in every later checkpoint. A checkpoint saved between
    a validation and the next step holds the whitening of its own weights; any other holds that of the last validation
    before it. Under DDP all processes end with the moments of all samples. Samples that a ``DistributedSampler``
    repeats to give every process the same number are left out, provided that the layer returns one vector for each
    sample of the batch.

    Args:
        layer: the dotted name of a submodule whose outputs are ``(N, d)``, or "predict_step": the values that the
            module's ``predict_step`` returns for each batch, called by the callback without gradients.
        n_components: see :class:`~ortho_lightning.Whitening`.
        beta: see :class:`~ortho_lightning.Whitening`.
        gamma: see :class:`~ortho_lightning.Whitening`.
        stage: "validate", also under ``trainer.validate``; or "train": the training epoch, whose vectors come from
            weights that change during the epoch (if it is resumed in the middle, only the rest of it counts).
        name: prefix of the logged names and part of the checkpoint key. Several callbacks need different names.

    Attributes:
        whitening: fitted at the end of the last epoch of the stage, on the CPU; None before the first.

    Raises:
        ConfigurationError: for an argument outside its range, naming it; from ``fit`` for a layer that does not exist
            (listing those that do), that never ran, or whose outputs are not ``(N, d)``.

    Example::

        callback = WhiteningCallback(layer="encoder", n_components=128)
        Trainer(callbacks=[callback]).fit(module, data)
        small = callback.whitening(vectors)
    """

    def __init__(
        self,
        layer: str,
        n_components: int | None = None,
        beta: float = 1.0,
        gamma: float = 1.0,
        stage: Literal["validate", "train"] = "validate",
        name: str = "whitening",
    ) -> None:
        Hyperparameters(n_components, beta, gamma)  # raises for a value outside its range
        if not isinstance(layer, str) or not layer:
            raise ConfigurationError(f"layer={layer!r}: give the name of a submodule, or 'predict_step'")
        if stage not in ("validate", "train"):
            raise ConfigurationError(f"stage={stage!r}: must be 'validate' or 'train'")
        if not isinstance(name, str) or not name or "/" in name:
            raise ConfigurationError(f"name={name!r}: must be a word without '/'")
        self.layer = layer
        self.n_components = n_components
        self.beta = beta
        self.gamma = gamma
        self.stage = stage
        self.name = name
        self.whitening: Whitening | None = None
        self._gathering: Gathering | None = None  # while an epoch of the stage runs
        self._open = False  # while a batch of it runs
        self._own_samples: tuple[int, int] | None = None
        self._handle: RemovableHandle | None = None

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint; it contains the name."""
        return state_key(self.name)

    def _state(self) -> dict[str, Any]:
        return {} if self.whitening is None else {"whitening": dict(self.whitening.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the whitening of a checkpoint."""
        stored = state_dict.get("whitening")
        self.whitening = None if stored is None else Whitening.from_state(stored, "the checkpoint")

    @staticmethod
    def load(checkpoint_path: str | os.PathLike[str], name: str = "whitening", weights_only: bool = True) -> Whitening:
        """Read a whitening from a checkpoint, onto the CPU.

        Args:
            checkpoint_path: a file that a Trainer with this callback wrote.
            name: that of the callback.
            weights_only: read tensors and plain values only. False executes code that the file contains; use it only
                for files that you trust, where a module's hyper-parameters are objects of other kinds.

        Raises:
            DataError: for a file that cannot be read, or holds no whitening of that name, naming it.
        """
        return load_whitening(checkpoint_path, name, weights_only)

    # ------------------------------------------------------------------------- life cycle, in the order of Trainer

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Register the hook."""
        self._restore()
        self._install(pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to gather, for ``stage="train"``."""
        if self.stage == "train":
            self._gathering = Gathering()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Accept vectors from now on, for ``stage="train"``."""
        if self.stage == "train":
            self._begin_batch(trainer.train_dataloader, batch_idx)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Accept no more vectors, for ``stage="train"``."""
        if self.stage == "train":
            self._end_batch(trainer, pl_module, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Fit and log, for ``stage="train"``."""
        if self.stage == "train":
            self._finish(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to gather, for ``stage="validate"``."""
        if self.stage == "validate" and not trainer.sanity_checking:
            self._install(pl_module)  # under trainer.validate there was no on_fit_start
            self._gathering = Gathering()

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Accept vectors from now on, for ``stage="validate"``."""
        if self.stage == "validate" and not trainer.sanity_checking:
            self._begin_batch(trainer.val_dataloaders, batch_idx, dataloader_idx)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Accept no more vectors, for ``stage="validate"``."""
        if self.stage == "validate" and not trainer.sanity_checking:
            self._end_batch(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Fit and log, for ``stage="validate"``."""
        if self.stage == "validate" and not trainer.sanity_checking:
            self._finish(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Remove the hook, and warn if nothing was fitted."""
        self._restore()
        if self.whitening is None:
            rank_zero_warn(
                f"WhiteningCallback({self.name!r}): no whitening was fitted: no epoch of stage={self.stage!r} gave "
                "finite vectors"
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Remove the hook."""
        self._restore()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Remove the hook."""
        self._restore()

    def _install(self, module: nn.Module) -> None:
        # from the start of fit to its end: code compiled without the hook would not call it later
        if self._handle is None and self.layer != PREDICT_STEP:
            layer = find_layer(module, self.layer)
            # not as a decorator, which would load the compiler with the package: most of the time of its import
            ran = torch.compiler.disable(self._ran)
            self._handle = layer.register_forward_hook(ForwardHook(ran), with_kwargs=True)

    def _restore(self) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._gathering = None
        self._open = False

    # -------------------------------------------------------------------------------------------------- gathering

    def _begin_batch(self, dataloaders: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._open = self._gathering is not None
        leaves = tree_leaves(dataloaders)
        self._own_samples = own_samples(leaves[dataloader_idx], batch_idx) if dataloader_idx < len(leaves) else None

    def _end_batch(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        if self._open and self.layer == PREDICT_STEP:
            self._add(predicted(trainer, pl_module, *batch))
        self._open = False

    def _ran(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._open and torch._C._current_graph_task_id() == -1:  # not when checkpointing runs it again in backward
            self._add(output)

    def _add(self, output: Any) -> None:
        vectors = checked_vectors(output, self.layer)
        Hyperparameters(self.n_components, self.beta, self.gamma).check_width(vectors.shape[1])
        assert self._gathering is not None
        if self._own_samples is not None and len(vectors) == self._own_samples[1]:
            vectors = vectors[: self._own_samples[0]]
        self._gathering.add(vectors)

    def _finish(self, trainer: Any) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is None:
            return
        gathering.join(trainer.strategy.root_device)
        self.whitening = None
        if gathering.failure is not None:
            rank_zero_warn(f"WhiteningCallback({self.name!r}): nothing fitted in this epoch: {gathering.failure}")
            return
        moments = gathering.moments
        if moments is None or moments.count < 2:
            raise ConfigurationError(
                f"layer={self.layer!r}: {0 if moments is None else moments.count} vector(s) in an epoch of "
                f"stage={self.stage!r}, and whitening needs two or more. A layer that does not run then, or runs in "
                "code compiled before fit, cannot be seen: choose another, or layer='predict_step'"
            )
        self.whitening = Whitening.from_moments(
            moments, self.n_components, self.beta, self.gamma, dtype=gathering.dtype
        )
        log_whitening(trainer, self.name, self.whitening, gathering)
