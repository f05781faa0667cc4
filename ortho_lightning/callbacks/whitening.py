"""The callback that fits a whitening to a layer's outputs while a network trains."""

from __future__ import annotations

import inspect
import os
import pickle
from typing import Any, Literal

import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ortho_lightning import functional as OF
from ortho_lightning.callbacks.gathering import Gathering, genuine_rows
from ortho_lightning.callbacks.monitoring import loggers
from ortho_lightning.errors import ConfigurationError, DataError, LayerSelectionError
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.rows import too_narrow

_PREDICT_STEP = "predict_step"


class WhiteningCallback(Callback):
    """Fit a :class:`~ortho_lightning.Whitening` to a layer's outputs, and keep it in the checkpoint.

    The vectors of each validation epoch (the sanity check left out) are reduced to their moments as they come; at its
    end the whitening is fitted, logged, and stored in every checkpoint made from then on. A checkpoint saved after a
    validation and before the next step holds the whitening of the weights in it; another, that of the last validation
    before it. Under DDP all processes end with the moments of all rows; those
    that a ``DistributedSampler`` repeats to even out the processes are left out as long as the layer's outputs have a
    row for each row of the batch.

    Args:
        layer: the dotted name of a submodule whose outputs are ``(N, d)``, or "predict_step": what the module's
            ``predict_step`` returns for each batch, called by the callback without gradients.
        n_components, beta, gamma: see :class:`~ortho_lightning.Whitening`.
        stage: "validate", also under ``trainer.validate``; or "train": the training epoch, whose vectors come from
            weights that change under way (one resumed in its middle counts what is left of it).
        name: prefix of the logged names and part of the checkpoint key. Several callbacks need several names.

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
        Whitening(n_components, beta, gamma)  # refuses what is outside its range
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
        self._open = False  # while a batch of it does
        self._own_rows: tuple[int, int] | None = None
        self._handle: RemovableHandle | None = None

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def state_key(self) -> str:
        return _state_key(self.name)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.whitening is None else {"whitening": dict(self.whitening.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        stored = state_dict.get("whitening")
        self.whitening = None if stored is None else Whitening.from_state(stored, "the checkpoint")

    @staticmethod
    def load(checkpoint_path: str | os.PathLike[str], name: str = "whitening", weights_only: bool = True) -> Whitening:
        """The whitening that a checkpoint holds, on the CPU.

        Args:
            checkpoint_path: a file that a Trainer with this callback wrote.
            name: that of the callback.
            weights_only: read tensors and plain values only. False runs what the file says, and so is for files that
                you trust, where a module's hyper-parameters are objects of other kinds.

        Raises:
            DataError: for a file that cannot be read, or holds no whitening of that name, naming it.
        """
        try:
            checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=weights_only)
        except (OSError, EOFError, RuntimeError) as error:
            raise DataError(f"{checkpoint_path} cannot be read as a checkpoint: {error}") from error
        except pickle.UnpicklingError as error:
            raise DataError(
                f"{checkpoint_path} is damaged, or holds more than tensors and plain values; if you trust it, "
                f"load it with weights_only=False ({str(error).splitlines()[0]})"
            ) from error
        states = checkpoint.get("callbacks", {}) if isinstance(checkpoint, dict) else {}
        stored = states.get(_state_key(name), {}).get("whitening")
        if stored is None:
            held = [key for key in states if key.startswith(WhiteningCallback.__qualname__) and states[key]]
            raise DataError(
                f"{checkpoint_path} holds no fitted whitening of a WhiteningCallback named {name!r}. "
                + (f"It holds {held}." if held else "It was saved before an epoch of the callback's stage was over.")
            )
        return Whitening.from_state(stored, str(checkpoint_path))

    # ------------------------------------------------------------------------- life cycle, in the order of Trainer

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._restore()
        self._install(pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.stage == "train":
            self._gathering = Gathering()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.stage == "train":
            self._begin_batch(trainer.train_dataloader, batch_idx)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.stage == "train":
            self._end_batch(trainer, pl_module, batch, batch_idx)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.stage == "train":
            self._finish(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self.stage == "validate" and not trainer.sanity_checking:
            self._install(pl_module)  # under trainer.validate there was no on_fit_start
            self._gathering = Gathering()

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.stage == "validate" and not trainer.sanity_checking:
            self._begin_batch(trainer.val_dataloaders, batch_idx, dataloader_idx)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.stage == "validate" and not trainer.sanity_checking:
            self._end_batch(trainer, pl_module, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if self.stage == "validate" and not trainer.sanity_checking:
            self._finish(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._restore()
        if self.whitening is None:
            rank_zero_warn(
                f"WhiteningCallback({self.name!r}): no whitening was fitted, for no epoch of stage={self.stage!r} gave "
                "finite vectors"
            )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore()

    def _install(self, module: nn.Module) -> None:
        # from the start of fit to its end: code compiled without the hook would not call it later
        if self._handle is None and self.layer != _PREDICT_STEP:
            self._handle = _find_layer(module, self.layer).register_forward_hook(_Hook(self))

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
        self._own_rows = genuine_rows(leaves[dataloader_idx], batch_idx) if dataloader_idx < len(leaves) else None

    def _end_batch(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        if self._open and self.layer == _PREDICT_STEP:
            modes = [(part, part.training) for part in pl_module.modules()]  # some may be frozen in theirs
            pl_module.eval()
            try:
                with torch.no_grad(), trainer.precision_plugin.predict_step_context():
                    self._add(pl_module.predict_step(*_taken(pl_module.predict_step, batch)))
            finally:
                for part, training in modes:
                    part.training = training
        self._open = False

    @torch.compiler.disable
    def ran(self, output: Any) -> None:
        """Called by the hook after each run of the layer."""
        if self._open and torch._C._current_graph_task_id() == -1:  # not when checkpointing runs it again in backward
            self._add(output)

    def _add(self, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() != 2:
            kind = f"{output.dtype} {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ConfigurationError(
                f"layer={self.layer!r}: its outputs are {kind}, not floating-point vectors (N, d). Choose a "
                "layer behind the pooling, or layer='predict_step' and return the vectors from there"
            )
        if self.n_components is not None and self.n_components > output.shape[1]:
            raise too_narrow(self.n_components, output.shape[1])
        assert self._gathering is not None
        if self._own_rows is not None and len(output) == self._own_rows[1]:
            output = output[: self._own_rows[0]]
        self._gathering.add(output)

    def _finish(self, trainer: Any) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is None:
            return
        device = trainer.strategy.root_device
        gathering.join(device)
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
        self._log(trainer, gathering, device)

    def _log(self, trainer: Any, gathering: Gathering, device: torch.device) -> None:
        assert self.whitening is not None
        spectrum = self.whitening.spectrum
        after = spectrum * OF.whitening_scales(spectrum, self.gamma).square()
        after = after[: self.whitening.projection.shape[1]]
        scalars = {
            "rank": float(self.whitening.rank),
            "explained_variance": self.whitening.explained_variance_ratio.sum().item(),
            "effective_rank": self.whitening.effective_rank,
            "effective_rank_after": OF.effective_rank(after),
            "mean_cosine": gathering.mean_cosine(),
            "mean_cosine_after": gathering.mean_cosine_after(lambda rows: self.whitening(rows.cpu()), device),
        }
        loggers.log_scalars(trainer, {f"{self.name}/{key}": value for key, value in scalars.items()})
        loggers.log_spectrum(trainer, f"{self.name}/spectrum", spectrum)
        loggers.log_spectrum(trainer, f"{self.name}/spectrum_after", after)


class _Hook:
    """The forward hook of the layer. A copy of the module, such as an EMA teacher, gets one that does nothing."""

    def __init__(self, callback: WhiteningCallback) -> None:
        self.callback = callback

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.callback.ran(output)

    def __reduce__(self) -> Any:  # deep copies ask for this too
        return _IdleHook, ()


class _IdleHook:
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        pass


def _taken(step: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """As many of batch, batch_idx and dataloader_idx as a step takes."""
    parameters = inspect.signature(step).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return arguments
    return arguments[: len(parameters)]


def _state_key(name: str) -> str:
    return f"{WhiteningCallback.__qualname__}{ {'name': name}!r}"


def _find_layer(model: nn.Module, layer: str) -> nn.Module:
    # torch.compile's prefix is not part of a name
    named = {name.replace("_orig_mod.", ""): module for name, module in model.named_modules() if name}
    if layer not in named:
        nearby = next((name for name in named if name.endswith(f".{layer}")), None)
        raise LayerSelectionError(f"layer={layer!r}", named, nearby)
    return named[layer]
