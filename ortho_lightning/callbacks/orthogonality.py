"""Callback that adds an orthogonality penalty to any LightningModule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn

from ortho_lightning.callbacks.angle_monitor import AngleMonitor
from ortho_lightning.callbacks.base import LightningCallback
from ortho_lightning.callbacks.monitoring import angles, dashboard, loggers
from ortho_lightning.callbacks.monitoring.adapters import Chart
from ortho_lightning.callbacks.monitoring.arguments import Kind
from ortho_lightning.callbacks.monitoring.steps import StepCounter
from ortho_lightning.callbacks.penalty import arguments, compatibility
from ortho_lightning.callbacks.penalty.decoupled import DecoupledTerm
from ortho_lightning.callbacks.penalty.loss_term import LossTerm
from ortho_lightning.callbacks.penalty.memory import PenaltyMemory
from ortho_lightning.callbacks.penalty.reports import Reports
from ortho_lightning.callbacks.penalty.scalars import PenaltyScalars, loss_parts
from ortho_lightning.callbacks.penalty.term import PenaltyTerm, ScheduleFunction, TermOptions, TermState
from ortho_lightning.callbacks.penalty.weight import PenaltyWeight
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.layers.parts import Part
from ortho_lightning.layers.selection import Layers, select_parts
from ortho_lightning.regularizers import LSH, Regularizer
from ortho_lightning.weights import GradientShare

_MANY = 50  # steps after which something should have happened, where the user gave no interval


class OrthogonalityCallback(LightningCallback):
    """Push the filters of chosen layers towards mutual right angles while a network trains.

    The penalty joins the value that ``training_step`` returns (or, under manual optimization, the next
    ``manual_backward`` whose loss depends on the run), so that accumulation, clipping, mixed precision and DDP treat it
    as part of the loss. Nothing of the module is changed: what is replaced while ``fit`` runs is put back when it ends,
    also by an exception.

    A run of a layer counts if it happens inside ``training_step``, with gradients enabled, while the layer's weight
    requires a gradient, and if the loss depends on it; a penalty on outputs leaves out runs inside of a transform of
    ``torch.func``. A step is one training batch after which an optimizer stepped: the micro-batches of an accumulation
    window share their schedule, interval and sampled positions. Learning-rate and batch-size finders see the task only.

    Args:
        regularizer: a :class:`~ortho_lightning.regularizers.Regularizer`; None: measure angles only, change nothing.
        layers: None for every Conv1d/2d/3d and Linear with two or more filters; a shell-style pattern for the whole
            dotted name (``"layer*.conv*"``), with ``:`` and a part of modules with several kernels
            (``"encoder.*.self_attn:q"``), a list of patterns, or a predicate ``(name, module) -> bool``; for penalties
            on outputs also :class:`~ortho_lightning.layers.OutputsOf` any modules.
        exclude: layers to leave out, likewise.
        weight: 0 or more, or a :class:`~ortho_lightning.GradientShare`: total loss = task loss + weight * schedule(
            step, total_steps) * sum over layers of the penalty. 0: measured and logged only; training is bit-identical.
            The default is one for :class:`~ortho_lightning.regularizers.LSH` as a first try, without a schedule. With
            0.1 on every layer the test accuracy was 96.0, 95.3 and 66.8% on digits, shapes and CIFAR-10 (5, 3 and 2
            seeds), without a penalty 96.2, 95.8 and 65.9%; with 1 it was 95.9, 93.7 and 68.7% (docs/sweep.md has the
            commands). Other penalties need other numbers; ``GradientShare(0.1)`` suits all.
        schedule: any callable ``(step, total_steps) -> factor``; see :mod:`ortho_lightning.schedules`. Steps count from
            0; ``total_steps`` is infinite when the Trainer has no end.
        every_n_steps: lazy regularization: the penalty on every n-th step, the first included, times n.
        sync: under DDP, "local": each process's penalty on its own samples, averaged as its gradient is; "global": the
            penalty of the joined samples, at the cost of two collectives a step.
        log_every_n_steps: steps between the penalty's scalars, the first step included; None: never.
        log_gradient_ratio_every_n_steps: steps between measurements of the norm of the penalty's gradient over that of
            the task's, on the weights of each layer and of all; None: never. See below.
        monitor: measures and logs the angles; "auto": an :class:`~ortho_lightning.AngleMonitor` on the same layers,
            under the same name and with the same interval; None: the penalty only.
        name: prefix of the logged names and part of the checkpoint key. Several callbacks need several names.
        apply: "loss": the penalty joins the loss. "decoupled": after each optimizer step, the weights that it moved are
            moved by ``-lr * weight * gradient`` of the penalty, with the learning rate of their parameter group, as
            AdamW applies weight decay. For penalties on filters. Under Adam a penalty in the loss is divided by the
            root of the second moment of the task's gradient, and so is stronger in some layers than in others.

    The gradient ratio is ``<name>/gradient_ratio``, and the same with ``/<layer>``. Its numerator is of the penalty of
    all layers at the weight and schedule of that step (without the factor n of ``every_n_steps``), its denominator of
    the task's loss, both of one micro-batch and before clipping. It is measured and logged in steps in which the weight
    is not 0, by two backward passes; training goes on bit by bit as without. ``weight=GradientShare(...)`` measures it
    too. It needs ``torch._functorch.config.donated_buffer = False`` under torch.compile, and is rejected under FSDP2
    and DeepSpeed.

    Raises:
        ConfigurationError: for an argument outside its range, naming it; from ``fit`` for a selection without layers.

    Example::

        Trainer(callbacks=[OrthogonalityCallback(LSH(), layers="layer*.conv*", weight=0.1)]).fit(module, data)
    """

    def __init__(
        self,
        regularizer: Regularizer | None = LSH(),
        layers: Layers = None,
        exclude: Layers = None,
        weight: float | GradientShare = 0.1,
        schedule: ScheduleFunction | None = None,
        every_n_steps: int = 1,
        sync: Literal["local", "global"] = "local",
        log_every_n_steps: int | None = 50,
        log_gradient_ratio_every_n_steps: int | None = None,
        monitor: AngleMonitor | Literal["auto"] | None = "auto",
        name: str = "ortho",
        apply: Literal["loss", "decoupled"] = "loss",
    ) -> None:
        self.regularizer = regularizer
        self.layers = layers
        self.exclude = exclude
        self.weight = weight
        self.schedule = schedule
        self.every_n_steps = every_n_steps
        self.apply = apply
        self.sync = sync
        self.log_every_n_steps = log_every_n_steps
        self.log_gradient_ratio_every_n_steps = log_gradient_ratio_every_n_steps
        self.name = name
        arguments.check(self)
        if monitor == "auto":
            monitor = AngleMonitor(layers, exclude, every_n_steps=log_every_n_steps, name=name)
        if not isinstance(monitor, AngleMonitor | None):
            raise ConfigurationError(f"monitor={monitor!r}: must be an AngleMonitor, 'auto' or None")
        self.monitor = monitor
        self._steps = StepCounter()
        self._reports = Reports(name)
        self._scalars = PenaltyScalars(log_every_n_steps)
        self._weight = PenaltyWeight(weight)
        self._memory = PenaltyMemory()
        self._layers: dict[str, Part] = {}
        self._term: PenaltyTerm | None = None
        self._began = False

    @property
    def penalty(self) -> Tensor | None:
        """Last total penalty before weight, a detached scalar tensor, or None before the first."""
        return None if self._term is None else self._term.penalty

    @property
    def state_key(self) -> str:
        """Key of the callback's state in a checkpoint."""
        return self._generate_state_key(name=self.name)

    def _state(self) -> dict[str, Any]:
        return self._steps.state_dict() | self._weight.state_dict() | self._memory.state_dict()

    def _keys(self) -> dict[str, LightningCallback]:
        return super()._keys() | ({} if self.monitor is None else self.monitor._keys())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved number of steps, and the weight that was reached."""
        self._steps.load_state_dict(state_dict)
        self._weight.load_state_dict(state_dict)
        self._memory.load_state_dict(state_dict)
        if self.monitor is not None:
            self.monitor.load_state_dict(state_dict)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Check the names, and forget a batch that an error cut short, before a checkpoint is restored."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self._steps.begin_fit()
            if self.monitor is not None:
                self.monitor.forget_batch()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Select the layers and take part in the module's training steps."""
        self._restore()
        if self._weight.rule != self.weight:  # it was changed since
            self._weight = PenaltyWeight(self.weight)
        gradients = self._weight.measures or self.log_gradient_ratio_every_n_steps is not None
        compatibility.check_strategy(trainer, gradients)
        outputs = self.regularizer is not None and self.regularizer.sampling is not None
        self._layers = select_parts(pl_module, self.layers, self.exclude, outputs=outputs)
        self._steps.begin_fit()
        self._reports = Reports(self.name)
        self._scalars = PenaltyScalars(self.log_every_n_steps)
        self._term = None
        if self.regularizer is not None:
            state = TermState(self._weight, self._memory, self._layers, self._steps, self._scalars, self._reports)
            kind = LossTerm if self.apply == "loss" else DecoupledTerm
            self._term = kind(TermOptions.of(self), state)
            self._term.attach(trainer, pl_module)
        if self.monitor is not None:
            self.monitor.on_fit_start(trainer, pl_module)
        self._began = True

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Check the schedule, and begin to log."""
        if trainer.global_step == 0:  # known here, after the loops are restored, not before
            self._steps.step = 0  # a second Trainer with the same callback begins anew
            self._weight.begin()
            self._memory.begin()
        if self._term is not None:
            self._term.start(trainer, pl_module)
        dashboard.log_layout_once(trainer, self)
        if self.monitor is not None:
            self.monitor.on_train_start(trainer, pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Take part in the steps of this batch."""
        if not self._began:  # it was added to the Trainer's list in the middle of fit
            self.on_fit_start(trainer, pl_module)
            self.on_train_start(trainer, pl_module)
        shared = self._term is not None and self._term.samples_outputs
        take = None if self.monitor is None else self.monitor.begin_batch(trainer, pl_module, shared)
        if self._term is not None:
            self._term.begin_batch(trainer, take)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Note that the batch ends a step."""
        self._steps.optimizer_steps()
        if self.monitor is not None:
            self.monitor.on_before_optimizer_step(trainer, pl_module, optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what is due in this step."""
        joined = None if self._term is None else self._term.end_batch()
        found = {} if self.monitor is None else self.monitor.scalars_of_batch()
        step = self._steps.end_batch()
        if step is None:
            if self._steps.batches_without_step == _MANY and not pl_module.automatic_optimization:
                self._reports.missing_steps(_MANY)
            return
        losses = loss_parts(trainer, pl_module, outputs, joined)
        own = self._scalars.end_step(step, loggers.log_step(trainer), joined, losses)
        moved: Kind = "filter" if self._term is None else self._term.moves
        dashboard.log_step(trainer, self.name, {**found, **own}, moved=moved)
        if self._term is not None:
            dashboard.log_step(trainer, self.name, self._term.take_gradient_ratios())
            if step % (self.log_every_n_steps or _MANY) == 0:
                self._term.watch_collapse(self.monitor, fresh="angle_std" in found)
            if self._term.steps == (self.log_every_n_steps or _MANY):
                self._term.report_silent_layers()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Report layers that never ran."""
        if self._term is not None:
            self._term.report_silent_layers()
        if self.monitor is not None:
            self.monitor.on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the last step, if it was not logged."""
        step, scalars = self._scalars.last()
        dashboard.log_step(trainer, self.name, scalars, step)
        if self.monitor is not None:
            self.monitor.on_train_end(trainer, pl_module)
        if self._term is not None and self._steps.step > 0:
            self._term.watch_collapse(self.monitor, fresh=True)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Put back what was replaced."""
        self._restore()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Put back what was replaced."""
        self._restore()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Put back what was replaced."""
        self._restore()

    def _restore(self) -> None:
        self._began = False
        if self._term is not None:
            self._term.detach()
        if self.monitor is not None:
            self.monitor.close()

    def angle_report(self, module: nn.Module | None = None) -> list[dict[str, Any]]:
        """Return the angles of each selected layer as they are now; see :meth:`AngleMonitor.angle_report`."""
        spectra = self.monitor is not None and self.monitor.measures_spectra
        rows = angles.selected_report(self._layers, module, self.layers, self.exclude, spectra)
        return rows if self.monitor is None else self.monitor.with_responses(rows, module)

    def chart_sections(self) -> Mapping[str, list[Chart]]:
        """Return the charts of the dashboard, by section: the loss, the angles and the penalty."""
        sections = {} if self.monitor is None else dict(self.monitor.chart_sections())
        own = [dashboard.loss_chart(self.name), *sections.get(self.name, []), *dashboard.penalty_charts(self.name)]
        return {**sections, self.name: own}
