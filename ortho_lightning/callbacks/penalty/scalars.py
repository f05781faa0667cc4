"""The scalars of the penalty, and the steps at which they are logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ortho_lightning.callbacks.penalty import intercept
from ortho_lightning.host import on_host


@dataclass(frozen=True)
class Joined:
    """What a step applied."""

    total: Tensor
    """The penalty of all layers, without graph."""
    by_layer: Mapping[str, Tensor]
    weight: float
    factor: float
    """Of the total: the weight times the interval of a lazy penalty."""
    in_loss: bool = True
    """Whether it is a part of the loss, or was applied to the weights directly."""

    def scalars(self) -> dict[str, float]:
        """Return the penalty of all layers and of each, and its weight; waits for the device."""
        total, *by_layer = (value.item() for value in on_host([self.total, *self.by_layer.values()]))
        names = [f"penalty/{name}" for name in self.by_layer]
        return {"penalty": total, "weight": self.weight} | dict(zip(names, by_layer, strict=True))


class PenaltyScalars:
    """Collects the scalars of a step while it runs, and says which are due when it has ended.

    The loss and its parts are due in the first step of each interval, the penalty in the first step of the interval
    that has one. Nothing is reported of a step other than the one that it was computed in.

    Args:
        every: the interval in steps; None: never due.
    """

    def __init__(self, every: int | None) -> None:
        self._every = every
        self._joined: Joined | None = None
        self._penalty_logged = -1
        self._diagnosed = -1
        self._diagnostics: dict[str, float] = {}
        self._pending: tuple[int, Joined | None, dict[str, Tensor]] | None = None

    def wants_diagnostics(self, step: int) -> bool:
        """Return whether the interval of this step has no diagnostics yet."""
        return self._every is not None and step // self._every != self._diagnosed

    def diagnosed(self, step: int, diagnostics: dict[str, float]) -> None:
        """Take the diagnostics of an interval."""
        assert self._every is not None
        self._diagnosed = step // self._every
        self._diagnostics = diagnostics

    def join(self, joined: Joined) -> None:
        """Take what the batch that is running applied."""
        self._joined = joined

    def end_batch(self) -> Joined | None:
        """Return what the batch applied, which has ended."""
        joined, self._joined = self._joined, None
        return joined

    def end_step(self, step: int, logged: int, joined: Joined | None, losses: dict[str, Tensor]) -> dict[str, float]:
        """Return the scalars that are due in a step that has ended.

        Args:
            step: counted from 0.
            logged: the step as loggers count it, which differs after a finder has run.
            joined: what its last batch applied.
            losses: the parts of its last batch's loss.
        """
        self._pending = None
        if self._every is None:
            return {}
        found: dict[str, float] = {}
        if joined is not None and step // self._every != self._penalty_logged:
            self._penalty_logged = step // self._every
            found |= joined.scalars() | self._diagnostics
        if step % self._every == 0:
            found |= _on_host(losses)
        if not found:
            self._pending = (logged, joined, losses)
        return found

    def last(self) -> tuple[int, dict[str, float]]:
        """Return the last step, as loggers count it, and its scalars; none if they were due before."""
        if self._pending is None:
            return 0, {}
        logged, joined, losses = self._pending
        self._pending = None
        return logged, ({} if joined is None else joined.scalars()) | _on_host(losses)


def loss_parts(trainer: Any, module: Any, outputs: Any, joined: Joined | None) -> dict[str, Tensor]:
    """Return the loss of a batch and its parts: of the task, of this callback's penalty, and in total.

    Empty under manual optimization, where a step may have several losses, and for a step that was skipped.

    Args:
        trainer: scales the losses of an accumulation window.
        module: whose task loss is known to its interception.
        outputs: what ``on_train_batch_end`` gets.
        joined: this callback's penalty.
    """
    total = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not module.automatic_optimization or not isinstance(total, Tensor):
        return {}
    # Lightning takes a loss of shape (1,) too, and has divided it
    total = total.detach().reshape(()) * trainer.accumulate_grad_batches
    penalty = torch.zeros_like(total)
    if joined is not None and joined.in_loss:
        penalty = (joined.factor * joined.total).to(total).reshape(())
    task = intercept.task_loss(module)
    task = total if task is None else task.to(total).reshape(())
    return {"task_loss": task, "penalty_loss": penalty, "total_loss": total}


def _on_host(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in zip(losses, on_host(list(losses.values())), strict=True)}
