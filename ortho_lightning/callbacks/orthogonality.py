"""The callback that adds an orthogonality penalty to any LightningModule, and logs the angles between its filters."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from ortho_lightning.callbacks.monitoring import angles, dashboard, loggers
from ortho_lightning.callbacks.monitoring.figures import Gallery
from ortho_lightning.callbacks.penalty import compatibility, intercept
from ortho_lightning.callbacks.penalty.collapse import CollapseWatch
from ortho_lightning.callbacks.penalty.gradient_ratio import GradientRatio
from ortho_lightning.callbacks.penalty.step_penalty import StepPenalty
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.selection import Layers, check_selection, select_layers
from ortho_lightning.random import mix
from ortho_lightning.regularizers import LSH, Regularizer

ScheduleFunction = Callable[[int, float], float]

_MANY = 50  # steps after which something should have happened, where the user gave no interval

_DEFAULT: Any = object()  # LSH() is made anew for each callback, and None is a choice of its own


class OrthogonalityCallback(Callback):
    """Push the filters of chosen layers towards mutual right angles while a network trains.

    The penalty joins the value that ``training_step`` returns (or, under manual optimization, the next
    ``manual_backward`` whose loss depends on the run), so that accumulation, clipping, mixed precision and DDP treat it
    as part of the loss. Nothing of the module is changed: what is replaced while ``fit`` runs is put back when it ends,
    also by an exception.

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
        log_pictures: pictures of each layer's angles in a training: one before it, the others evenly to its end; None:
            never.
        log_gradient_ratio_every_n_steps: steps between measurements of the norm of the penalty's gradient over that of
            the task's, on the weights of each layer and of all; None: never. See below.
        name: prefix of the logged names and part of the checkpoint key. Several callbacks need several names.

    The gradient ratio, ``<name>/gradient_ratio/<layer>`` and ``<name>/gradient_ratio``, is for choosing ``weight``. Its
    numerator is of the penalty of all layers at the weight and schedule of that step (without the factor n of
    ``every_n_steps``, so that it tells what the penalty weighs on average), its denominator of the loss that the
    penalty joins, both of one micro-batch and before clipping. It is measured in steps in which the weight is not 0, at
    the cost of two backward passes; training goes on bit by bit as without. It needs
    ``torch._functorch.config.donated_buffer = False`` under torch.compile, and is refused under FSDP2 and DeepSpeed.

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
        log_pictures: int | None = 3,
        log_gradient_ratio_every_n_steps: int | None = None,
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
        self.log_pictures = log_pictures
        self.log_gradient_ratio_every_n_steps = log_gradient_ratio_every_n_steps
        self.name = name
        self._check_arguments()

        self.penalty: Tensor | None = None
        self._step = 0
        self._layers: dict[str, nn.Module] = {}
        self._module: nn.Module | None = None  # the module that the callback stands around while fit runs
        self._step_penalty: StepPenalty | None = None
        self._gradient_ratio: GradientRatio | None = None
        self._total_steps = math.inf
        self._stepped = False
        self._batches_without_step = 0
        self._joined_weight = 0.0
        self._joined: Tensor | None = None  # what this step's loss has of the penalty
        self._diagnosed_at = -1
        self._reported: set[str] = set()
        self._collapse = CollapseWatch()
        self._gallery = Gallery(name, log_pictures)

    def _check_arguments(self) -> None:
        if self.regularizer is not None and not isinstance(self.regularizer, Regularizer):
            raise ConfigurationError(
                f"regularizer={self.regularizer!r}: must be an instance of a Regularizer, such as LSH(), or None"
            )
        observes = "kernel" if self.regularizer is None else self.regularizer.observes
        if observes not in ("outputs", "kernel"):
            kind = type(self.regularizer).__name__
            raise ConfigurationError(f"{kind}.observes={observes!r}: must be 'outputs' or 'kernel'")
        number = isinstance(self.weight, (int, float)) and not isinstance(self.weight, bool)
        if not number or not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ConfigurationError(f"weight={self.weight!r}: must be 0 or a positive number")
        if self.schedule is not None and not callable(self.schedule):
            raise ConfigurationError(f"schedule={self.schedule!r}: must be callable as (step, total_steps) -> factor")
        intervals = [option for option in vars(self) if "every_n_" in option]
        for option in (*intervals, "log_pictures"):
            value = getattr(self, option)
            if value is None and option != "every_n_steps":
                continue  # never
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{option}={value!r}: must be an integer of 1 or more")
        if self.sync not in ("local", "global"):
            raise ConfigurationError(f"sync={self.sync!r}: must be 'local' or 'global'")
        regularizer = self.regularizer
        on_outputs = regularizer is not None and regularizer.observes == "outputs"
        if self.sync == "global" and regularizer is not None and on_outputs and not regularizer.has_statistics:
            raise ConfigurationError(
                f"sync='global': {regularizer!r} has no statistics that add up over processes; use sync='local'"
                " (for LSH: or normalize=None)"
            )
        if not isinstance(self.name, str) or not self.name or "/" in self.name:
            raise ConfigurationError(f"name={self.name!r}: must be a word without '/'")
        for option in ("layers", "exclude"):
            check_selection(option, getattr(self, option))

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def state_key(self) -> str:
        return self._generate_state_key(name=self.name)

    def state_dict(self) -> dict[str, Any]:
        # another callback may save between the optimizer's step and the end of the batch
        return {"step": self._step + self._stepped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._step = state_dict["step"]

    # ------------------------------------------------------------------------- life cycle, in the order of Trainer

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._restore()
        gradient_ratio = self.log_gradient_ratio_every_n_steps
        compatibility.check_strategy(trainer, gradient_ratio is not None)
        outputs = self.regularizer is not None and self.regularizer.observes == "outputs"
        self._layers = select_layers(pl_module, self.layers, self.exclude, outputs=outputs)
        self.penalty = None
        self._stepped = False
        self._batches_without_step = 0
        self._diagnosed_at = -1
        self._reported = set()
        self._collapse = CollapseWatch()
        if self.regularizer is not None:
            self._step_penalty = StepPenalty(self._layers, self.regularizer, self.sync)
            self._keep_hooks_of_compiled(pl_module)
            if gradient_ratio is not None:
                self._gradient_ratio = GradientRatio(pl_module, self._layers, gradient_ratio)
            self._module = pl_module
            intercept.attach(pl_module, self)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 0:  # known here, after the loops are restored, not before
            self._step = 0  # a second Trainer with the same callback begins anew
        self._total_steps = math.inf
        if self.schedule is not None and self.regularizer is not None:
            self._total_steps = compatibility.total_steps(trainer, pl_module)
            if self._step < self._total_steps:
                self._current_weight()  # a schedule that cannot work is refused before the first batch
        if self._step == 0:
            self._log_histograms(trainer)
        self._describe(trainer)
        self._gallery.start(trainer, pl_module, self._layers)

    def around_training_step(self, module: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
        penalty = self._step_penalty
        if penalty is None or not self._serves(module._trainer):
            return call(*args, **kwargs)
        # validation_step may call training_step, and training_step may call itself
        recorder = penalty.recorder
        if recorder.open or not module.trainer.training or self._step % self.every_n_steps:
            return call(*args, **kwargs)
        self._keep_hooks_of_compiled(module)  # another callback may have compiled it since
        with recorder.record(seed=mix(self._step, module.trainer.global_rank)):
            output = call(*args, **kwargs)
        if module.automatic_optimization:
            output = self._join_output(output)
        elif recorder.pending:
            self._report(
                "unjoined",
                "runs of its layers joined no backward, so their penalty is lost. Use self.manual_backward(loss), not "
                "loss.backward(), on losses that depend on the layers.",
            )
        recorder.discard()
        return output

    def around_manual_backward(self, module: Any, call: Any, loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._step_penalty is not None and self._step_penalty.recorder.open:
            loss = self._join(loss, whole_step=False)
        return call(loss, *args, **kwargs)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self._stepped = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        joined, self._joined = self._joined, None
        if self._step_penalty is not None:
            self._step_penalty.recorder.settle()
        if not self._stepped:
            self._batches_without_step += 1
            if self._batches_without_step == _MANY and not pl_module.automatic_optimization:
                self._report(
                    "stepless",
                    f"no optimizer step was seen in {_MANY} batches, so its schedule and logging stand still. Step the "
                    "optimizers that self.optimizers() returns.",
                )
            return
        self._stepped = False
        self._batches_without_step = 0
        if self._step % (self.log_every_n_steps or _MANY) == 0:
            logs = self.log_every_n_steps is not None
            self._look(trainer, dashboard.loss_scalars(trainer, pl_module, args[0], joined) if logs else None)
        self._log_gradient_ratio(trainer)
        self._step += 1
        if self._step_penalty is not None and self._step_penalty.recorder.steps == (self.log_every_n_steps or _MANY):
            self._report_silent_layers()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._report_silent_layers()
        every = self.log_histograms_every_n_epochs
        if every is not None and (trainer.current_epoch + 1) % every == 0:
            self._log_histograms(trainer)
        self._gallery.epoch_end(trainer, pl_module, self._layers)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._step > 0:
            self._look(trainer)
        self._gallery.finish(trainer, pl_module, self._layers)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._restore()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._restore()

    def _keep_hooks_of_compiled(self, module: nn.Module) -> None:
        assert self._step_penalty is not None
        recorder = self._step_penalty.recorder
        if not recorder.persistent and compatibility.is_compiled(module):
            recorder.persist()

    def _serves(self, trainer: Any) -> bool:
        """Whether this fit is the callback's own; one that ended without a word to the callback is mended here."""
        if trainer is not None and any(callback is self for callback in trainer.callbacks):
            return True
        self._restore()
        return False

    def _restore(self) -> None:
        self._gallery.close()
        if self._step_penalty is not None:
            self._step_penalty.recorder.close()
            self._step_penalty = None
            self._gradient_ratio = None
        if self._module is not None:
            intercept.detach(self._module, self)
            self._module = None

    # ---------------------------------------------------------------------------------------------------- penalty

    def _current_weight(self) -> float:
        factor = 1.0 if self.schedule is None else float(self.schedule(self._step, self._total_steps))
        if not (factor >= 0 and math.isfinite(factor)):
            raise ConfigurationError(
                f"schedule={self.schedule!r} gave {factor} at step {self._step} of {self._total_steps}: "
                "a factor must be 0 or a positive number"
            )
        return self.weight * factor

    def _join_output(self, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._join(output, whole_step=True)
        if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
            joined: Any = copy.copy(output)
            joined["loss"] = self._join(output["loss"], whole_step=True)
            return joined
        return output  # None: the step is skipped; Lightning says what is wrong with anything else

    def _join(self, loss: Tensor, whole_step: bool) -> Tensor:
        assert self._step_penalty is not None
        weight = self._current_weight()
        window = self._step // (self.log_every_n_steps or _MANY)
        diagnose = self.log_every_n_steps is not None and window != self._diagnosed_at
        with torch.set_grad_enabled(weight > 0):
            penalty = self._step_penalty.total(loss, whole_step, diagnose)
        if self._gradient_ratio is not None and weight > 0:
            self._measure_gradient_ratio(None if penalty is None else weight * penalty, loss)
        if penalty is None:
            return loss
        self._diagnosed_at = window
        self._joined_weight = weight
        self._joined = weight * self.every_n_steps * penalty.detach()
        self.penalty = penalty.detach()
        self._collapse.update(self.penalty)
        return loss + weight * self.every_n_steps * penalty if weight > 0 else loss

    def _measure_gradient_ratio(self, weighted_penalty: Tensor | None, loss: Tensor) -> None:
        assert self._gradient_ratio is not None
        assert self._step_penalty is not None
        assert self._module is not None
        if self._gradient_ratio.is_due(self._step, self._step_penalty.recorder.steps):
            self._gradient_ratio.measure(weighted_penalty, loss, compatibility.loss_scale(self._module.trainer))

    # ---------------------------------------------------------------------------------------------- what is told

    def angle_report(self, module: nn.Module | None = None) -> list[dict[str, Any]]:
        """The angles between the filters of each selected layer, in degrees, as they are now.

        Args:
            module: the model to look at; None: the one of the last ``fit``. Under FSDP2 every process must ask, since
                weights are gathered.

        Returns:
            A dict a layer: name, groups, k (filters a group), d, mean, std, min, max, rms_cos, max_abs_cos, null_std
            (spread of random directions in R^d), spread_ratio (std / null_std; below 1: closer to right angles than
            chance), welch_floor (the smallest rms cosine that k filters in R^d can have).

        Raises:
            ConfigurationError: without a module before the first ``fit``.
            LayerSelectionError: if the selection means no layer of ``module``.
        """
        layers = self._layers if module is None else select_layers(module, self.layers, self.exclude)
        if not layers:
            raise ConfigurationError("angle_report() before fit: give it the module, angle_report(module)")
        return angles.angle_report(layers)

    def _describe(self, trainer: Any) -> None:
        """Say once what there is to see."""
        loggers.log_text(trainer, f"{self.name}/layers", dashboard.layer_table(self._layers))
        callbacks = [callback for callback in trainer.callbacks if isinstance(callback, OrthogonalityCallback)]
        if callbacks[:1] == [self]:  # one layout for all of them
            loggers.log_layout(trainer, dashboard.layout({one.name: list(one._layers) for one in callbacks}))

    def _look(self, trainer: Any, losses: Mapping[str, float] | None = None) -> None:
        """Measure the angles, watch for a collapse, and log."""
        if self.log_every_n_steps is None and self._step_penalty is None:
            return
        measured = angles.layer_angles(self._layers)
        message = self._collapse.check([found.rms_cos for found in measured.values()])
        if message is not None and self.weight > 0:
            self._report("collapse", message.format(weight=self.weight))
        if self.log_every_n_steps is None:
            return
        scalars = angles.angle_scalars(measured)
        if self._step_penalty is not None and self.penalty is not None:
            scalars["penalty"] = self.penalty.item()
            scalars["weight"] = self._joined_weight
            scalars.update({f"penalty/{name}": value.item() for name, value in self._step_penalty.by_layer.items()})
            scalars.update(self._step_penalty.diagnostics)
        scalars.update(losses or {})
        dashboard.show_on_bar(trainer, self.name, scalars)
        loggers.log_scalars(trainer, {f"{self.name}/{key}": value for key, value in scalars.items()})

    def _log_gradient_ratio(self, trainer: Any) -> None:
        if self._gradient_ratio is not None and self._gradient_ratio.found:
            found, self._gradient_ratio.found = self._gradient_ratio.found, {}
            loggers.log_scalars(trainer, {f"{self.name}/{key}": value for key, value in found.items()})

    def _log_histograms(self, trainer: Any) -> None:
        if self.log_histograms_every_n_epochs is None:
            return
        for name, statistics in angles.layer_angles(self._layers).items():
            loggers.log_angle_histogram(trainer, f"{self.name}/angles/{name}", statistics)

    def _report_silent_layers(self) -> None:
        if self._step_penalty is None or self._step_penalty.recorder.steps == 0:
            return
        recorder = self._step_penalty.recorder
        silent = [name for name in self._layers if name not in recorder.seen]
        if silent:
            self._report(
                "silent",
                f"no forward of {', '.join(map(repr, silent))} was seen in {recorder.steps} training steps, so nothing "
                "is added for them. Some modules use a layer's weight without calling the layer (MultiheadAttention "
                "does with out_proj), and code compiled before fit hides its layers: leave such layers out with "
                "exclude=, or compile after the Trainer has started.",
            )

    def _report(self, topic: str, message: str) -> None:
        if topic not in self._reported:
            self._reported.add(topic)
            rank_zero_warn(f"OrthogonalityCallback({self.name!r}): {message}")
