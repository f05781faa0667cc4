"""The callback that adds an orthogonality penalty to any LightningModule, and logs the angles between its filters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from ortho_lightning import kernels
from ortho_lightning.callbacks import intercept, loggers, measure
from ortho_lightning.callbacks.collapse import CollapseWatch
from ortho_lightning.callbacks.recording import LayerRecorder
from ortho_lightning.callbacks.synchronize import joined_statistics
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.kernels import Layers, mix
from ortho_lightning.regularizers import LSH, Regularizer

ScheduleFunction = Callable[[int, float], float]

_DEFAULT: Any = object()  # LSH() is made anew for each callback, and None is a choice of its own


class OrthogonalityCallback(Callback):
    """Push the filters of chosen layers towards mutual right angles while a network trains.

    The penalty joins the value that ``training_step`` returns (or, under manual optimization, the next
    ``manual_backward``), so that accumulation, clipping, mixed precision and DDP treat it as part of the loss. Nothing
    of the module is changed: what is replaced while ``fit`` runs is put back when it ends, also by an exception.

    A run of a layer counts if it happens inside ``training_step``, with gradients enabled, while the layer's weight
    requires a gradient. A step is one training batch after which an optimizer stepped: the micro-batches of an
    accumulation window share their schedule, interval and sampled rows. The learning-rate and batch-size finders run
    without callbacks, so they see the task loss only.

    Args:
        regularizer: a :class:`~ortho_lightning.regularizers.Regularizer`; None: measure angles only, change nothing.
        layers: None for every Conv1d/2d/3d and Linear with two or more filters; a shell-style pattern for the whole
            dotted name (``"layer*.conv*"``), a list of patterns, or a predicate ``(name, module) -> bool``.
        exclude: layers to leave out, likewise.
        weight: 0 or more; total loss = task loss + weight * schedule(step, total_steps) * sum over layers of the
            penalty. At 0 the penalty is measured and logged, and training is bit-identical to training without it.
        schedule: any callable ``(step, total_steps) -> factor``; see :mod:`ortho_lightning.schedules`. Steps count from
            0; ``total_steps`` is infinite when the Trainer has no end.
        every_n_steps: lazy regularization: the penalty on every n-th step, the first included, times n.
        sync: under DDP, "local": each process's penalty on its own rows, averaged as its gradient is; "global": the
            penalty of the joined rows, at the cost of two collectives a step.
        log_every_n_steps: steps between angle scalars, the first step included; None: never.
        log_histograms_every_n_epochs: epochs between histograms of the angles, and one before training; None: never.
        name: prefix of the logged names and part of the checkpoint key. Several callbacks need several names.

    Attributes:
        penalty: the last total penalty before weight, a detached scalar tensor, or None before the first.

    Raises:
        ValueError: for an argument outside its range, naming it; from ``fit`` for a selection without layers.

    Example::

        Trainer(callbacks=[OrthogonalityCallback(LSH(), layers="layer*.conv*", weight=0.1)]).fit(module, data)
    """

    def __init__(
        self,
        regularizer: Regularizer | None = _DEFAULT,
        layers: Layers = None,
        exclude: Layers = None,
        weight: float = 1.0,
        schedule: ScheduleFunction | None = None,
        every_n_steps: int = 1,
        sync: Literal["local", "global"] = "local",
        log_every_n_steps: int | None = 50,
        log_histograms_every_n_epochs: int | None = 1,
        name: str = "ortho",
    ) -> None:
        self.regularizer: Regularizer | None = LSH() if regularizer is _DEFAULT else regularizer
        self.layers = layers
        self.exclude = exclude
        self.weight = weight
        self.schedule = schedule
        self.every_n_steps = every_n_steps
        self.sync = sync
        self.log_every_n_steps = log_every_n_steps
        self.log_histograms_every_n_epochs = log_histograms_every_n_epochs
        self.name = name
        self._check_arguments()

        self.penalty: Tensor | None = None
        self._step = 0
        self._layers: dict[str, nn.Module] = {}
        self._recorder: LayerRecorder | None = None
        self._total_steps = math.inf
        self._stepped = False
        self._reported: set[str] = set()
        self._layer_penalties: dict[str, Tensor] = {}
        self._diagnostics: dict[str, float] = {}
        self._collapse = CollapseWatch()

    def _check_arguments(self) -> None:
        if self.regularizer is not None and not isinstance(self.regularizer, Regularizer):
            raise ConfigurationError(
                f"regularizer={self.regularizer!r}: must be an instance of a Regularizer, such as LSH(), or None"
            )
        if isinstance(self.weight, bool) or not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ConfigurationError(f"weight={self.weight}: must be 0 or a positive number")
        if self.schedule is not None and not callable(self.schedule):
            raise ConfigurationError(f"schedule={self.schedule!r}: must be callable as (step, total_steps) -> factor")
        if self.every_n_steps < 1:
            raise ConfigurationError(f"every_n_steps={self.every_n_steps}: must be 1 or more")
        for option in ("log_every_n_steps", "log_histograms_every_n_epochs"):
            value = getattr(self, option)
            if value is not None and value < 1:
                raise ConfigurationError(f"{option}={value}: must be 1 or more, or None for never")
        if self.sync not in ("local", "global"):
            raise ConfigurationError(f"sync={self.sync!r}: must be 'local' or 'global'")
        regularizer = self.regularizer
        on_outputs = regularizer is not None and regularizer.observes == "outputs"
        if self.sync == "global" and regularizer is not None and on_outputs and not regularizer.has_statistics:
            raise ConfigurationError(
                f"sync='global': {regularizer!r} has no statistics that add up over processes; use sync='local'"
                " (for LSH: or normalize=None)"
            )
        if not self.name or "/" in self.name:
            raise ConfigurationError(f"name={self.name!r}: must be a word without '/'")
        for option in ("layers", "exclude"):
            kernels._matcher(getattr(self, option), default=True)

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]

    # ------------------------------------------------------------------------- life cycle, in the order of Trainer

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._restore(pl_module)
        outputs = self.regularizer is not None and self.regularizer.observes == "outputs"
        self._layers = kernels.select_layers(pl_module, self.layers, self.exclude, outputs=outputs)
        self.penalty = None
        self._layer_penalties, self._diagnostics = {}, {}
        self._stepped = False
        self._reported = set()
        self._collapse = CollapseWatch()
        if self.regularizer is not None:
            self._recorder = LayerRecorder(self._layers, self.regularizer, persistent=_is_compiled(pl_module))
            intercept.attach(pl_module, self)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 0:  # known here, after the loops are restored, not before
            self._step = 0  # a second Trainer with the same callback begins anew
        self._total_steps = math.inf
        if self.schedule is not None and self.regularizer is not None:
            self._total_steps = trainer.estimated_stepping_batches
            self._current_weight()  # a schedule that cannot work is refused before the first batch
        if self._step == 0:
            self._log_histograms(trainer)

    def around_training_step(self, module: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
        recorder = self._recorder
        # validation_step may call training_step, and training_step may call itself
        if recorder is None or recorder.open or not module.trainer.training or self._step % self.every_n_steps:
            return call(*args, **kwargs)
        with recorder.record(seed=mix(self._step, module.trainer.global_rank)):
            output = call(*args, **kwargs)
        if module.automatic_optimization:
            return self._join_output(output, module)
        if recorder.pending:
            self._report(
                "unjoined",
                "runs of its layers after the last manual_backward joined no backward, so their penalty is lost. "
                "Use self.manual_backward(loss), not loss.backward(), after the layers have run.",
            )
            recorder.discard()
        return output

    def around_manual_backward(self, module: Any, call: Any, loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        recorder = self._recorder
        if recorder is not None and recorder.open:
            loss = self._join(loss, module)
        return call(loss, *args, **kwargs)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._stepped = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if self._recorder is not None:
            self._recorder.settle()
        if not self._stepped:
            return
        self._stepped = False
        if self.log_every_n_steps is not None and self._step % self.log_every_n_steps == 0:
            self._log_scalars(trainer)
        self._step += 1
        if self._step == (self.log_every_n_steps or 50) + 1:
            self._report_silent_layers()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._report_silent_layers()
        every = self.log_histograms_every_n_epochs
        if every is not None and (trainer.current_epoch + 1) % every == 0:
            self._log_histograms(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.log_every_n_steps is not None and self._step > 0:
            self._log_scalars(trainer)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._restore(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._restore(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore(pl_module)

    def _restore(self, pl_module: nn.Module) -> None:
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None
        intercept.detach(pl_module, self)

    # ---------------------------------------------------------------------------------------------------- penalty

    def _current_weight(self) -> float:
        factor = 1.0 if self.schedule is None else float(self.schedule(self._step, self._total_steps))
        if not (factor >= 0 and math.isfinite(factor)):
            raise ConfigurationError(
                f"schedule={self.schedule!r} gave {factor} at step {self._step} of {self._total_steps}: "
                "a factor must be 0 or a positive number"
            )
        return self.weight * factor

    def _join_output(self, output: Any, module: Any) -> Any:
        assert self._recorder is not None
        if output is None:
            self._recorder.discard()
            return None
        if isinstance(output, Mapping):
            if output.get("loss") is None:
                return output  # Lightning says what is wrong with it
            joined: Any = copy.copy(output)
            joined["loss"] = self._join(output["loss"], module)
            return joined
        return self._join(output, module)

    def _join(self, loss: Tensor, module: Any) -> Tensor:
        weight = self._current_weight()
        with torch.set_grad_enabled(weight > 0):
            penalty = self._penalty(module, loss.device)
        if penalty is None:
            return loss
        self.penalty = penalty.detach()
        self._collapse.update(self.penalty)
        if weight == 0:
            return loss
        return loss + weight * self.every_n_steps * penalty

    def _penalty(self, module: Any, device: torch.device) -> Tensor | None:
        """The sum over layers of the mean over runs of the penalty, or None where no layer ran."""
        assert self._recorder is not None
        assert self.regularizer is not None
        recorder, regularizer = self._recorder, self.regularizer
        runs = recorder.take()
        if self.sync == "global" and regularizer.observes == "outputs" and _world_size() > 1:
            penalties = self._joined_penalties(runs, module)
        else:
            penalties = {
                name: [regularizer.penalty(values, seed=recorder.layer_seed(name)) for values in layer_runs]
                for name, layer_runs in runs.items()
            }
        if not penalties:
            return None
        means = {name: torch.stack(values).mean() for name, values in penalties.items()}
        self._layer_penalties = {name: mean.detach() for name, mean in means.items()}
        if self.log_every_n_steps is not None and self._step % self.log_every_n_steps == 0:
            self._diagnose(runs)
        return torch.stack([mean.to(device) for mean in means.values()]).sum()

    def _joined_penalties(self, runs: dict[str, list[Tensor]], module: Any) -> dict[str, list[Tensor]]:
        assert self.regularizer is not None
        statistics = {name: [self.regularizer.statistics(values) for values in run] for name, run in runs.items()}
        shapes: dict[str, tuple[int, ...]] = {}
        for name, layer in self._layers.items():
            groups, k = kernels.filter_counts(layer)
            shapes[name] = (groups, k, k)
        joined = joined_statistics(statistics, shapes, reference=torch.zeros((), device=module.device))
        return {
            name: [self.regularizer.penalty_from_statistics(values) for values in layer_runs]
            for name, layer_runs in joined.items()
        }

    # ---------------------------------------------------------------------------------------------- what is told

    def angle_report(self, module: nn.Module | None = None) -> list[dict[str, Any]]:
        """The angles between the filters of each selected layer, in degrees, as they are now.

        Args:
            module: the model to look at; None: the one of the last ``fit``.

        Returns:
            A dict a layer: name, groups, k (filters a group), d, mean, std, min, max, rms_cos, max_abs_cos, null_std
            (spread of random directions in R^d), spread_ratio (std / null_std; below 1: closer to right angles than
            chance), welch_floor (the smallest rms cosine that k filters in R^d can have).

        Raises:
            ConfigurationError: without a module before the first ``fit``.
            LayerSelectionError: if the selection means no layer of ``module``.
        """
        layers = self._layers if module is None else kernels.select_layers(module, self.layers, self.exclude)
        if not layers:
            raise ConfigurationError("angle_report() before fit: give it the module, angle_report(module)")
        return measure.angle_report(layers)

    @torch.no_grad()
    def _diagnose(self, runs: dict[str, list[Tensor]]) -> None:
        assert self.regularizer is not None
        found: dict[str, list[float]] = {}
        floors = []
        for name, layer_runs in runs.items():
            floors.append(self.regularizer.floor(layer_runs[0]))
            for key, value in self.regularizer.diagnostics(layer_runs[0]).items():
                found.setdefault(key, []).append(float(value))
                found[f"{key}/{name}"] = [float(value)]
        self._diagnostics = {key: sum(values) / len(values) for key, values in found.items()}
        known = [floor for floor in floors if floor is not None]
        if known and len(known) == len(floors):
            self._diagnostics["penalty_floor"] = sum(known)

    def _log_scalars(self, trainer: Any) -> None:
        measured = measure.layer_angles(self._layers, measure.WIDEST_LOGGED)
        scalars = measure.angle_scalars(self._layers, measured)
        if self.penalty is not None:
            scalars["penalty"] = self.penalty.item()
            scalars["weight"] = self._current_weight()
            scalars.update({f"penalty/{name}": value.item() for name, value in self._layer_penalties.items()})
            scalars.update(self._diagnostics)
        loggers.log_scalars(trainer, {f"{self.name}/{key}": value for key, value in scalars.items()})
        if measured:
            message = self._collapse.check(sum(found.rms_cos for found in measured.values()) / len(measured))
            if message is not None and self.weight > 0:
                self._report("collapse", message.format(weight=self.weight))

    def _log_histograms(self, trainer: Any) -> None:
        if self.log_histograms_every_n_epochs is None:
            return
        for name, statistics in measure.layer_angles(self._layers, measure.WIDEST_LOGGED).items():
            loggers.log_angle_histogram(trainer, f"{self.name}/angles/{name}", statistics)

    def _report_silent_layers(self) -> None:
        if self._recorder is None or self._step == 0:
            return
        silent = [name for name in self._layers if name not in self._recorder.seen]
        if silent:
            self._report(
                "silent",
                f"no forward of {', '.join(map(repr, silent))} was seen in {self._step} training steps, so nothing is "
                "added for them. Some modules use a layer's weight without calling the layer (MultiheadAttention does "
                "with out_proj), and code compiled before fit hides its layers: leave such layers out with exclude=, "
                "or compile after the Trainer has started.",
            )

    def _report(self, topic: str, message: str) -> None:
        if topic not in self._reported:
            self._reported.add(topic)
            rank_zero_warn(f"OrthogonalityCallback({self.name!r}): {message}")


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _is_compiled(module: nn.Module) -> bool:
    return getattr(module, "_compiler_ctx", None) is not None or any(
        isinstance(part, torch._dynamo.OptimizedModule) or part._compiled_call_impl is not None
        for part in module.modules()
    )
