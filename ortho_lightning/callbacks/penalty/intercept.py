"""Interception of ``training_step`` and ``manual_backward`` while ``fit`` runs, and of ``teardown``, which ends it.

They are replaced on the instance (Lightning looks them up there, inside DDP's forward). ``teardown`` also tells the
callbacks that were taken out of the Trainer's list in the middle of the fit. Several callbacks share one replacement,
so that they can come and go in any order, and each sees the task's loss before any penalty.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

_METHODS = ("training_step", "manual_backward", "teardown")


class Participant(Protocol):
    """What a callback contributes to a training step."""

    def serves(self, module: Any) -> bool:
        """Return whether this training step belongs to the fit of the callback."""

    def recording(self, module: Any) -> AbstractContextManager[None]:
        """Return the context in which ``training_step`` runs."""

    def weighted_penalty(self, loss: Tensor) -> Tensor | None:
        """Return what to add to the task's loss, of the runs that it depends on."""

    def step_ran(self, module: Any) -> None:
        """Called after ``training_step``."""

    def detach(self) -> None:
        """Called at the end of ``fit``, if the participant is still there: leave the module as it was."""


def attach(module: nn.Module, participant: Participant) -> None:
    """Let ``participant`` join the module's training steps; attaching twice is attaching once."""
    interception = _interception_of(module)
    if interception is None:
        interception = Interception(module)
    if participant not in interception.participants:
        interception.participants.append(participant)


def detach(module: nn.Module, participant: Participant) -> None:
    """Undo :func:`attach`; with the last participant the module's own attributes come back."""
    interception = _interception_of(module)
    if interception is not None and participant in interception.participants:
        interception.participants.remove(participant)
        if not interception.participants:
            interception.remove()


def task_loss(module: nn.Module) -> Tensor | None:
    """Return the loss of the last training step before any penalty; None where nobody takes part in the steps."""
    interception = _interception_of(module)
    return None if interception is None else interception.task_loss


def _interception_of(module: nn.Module) -> Interception | None:
    methods = (module.__dict__.get(name) for name in _METHODS)
    return next((method.interception for method in methods if isinstance(method, _Method)), None)


class Interception:
    """The methods of one module, with the callbacks that take part in its training steps."""

    def __init__(self, module: nn.Module) -> None:
        self.participants: list[Participant] = []
        self.task_loss: Tensor | None = None
        """The loss of the last step before any penalty, without graph."""
        self._module = module
        self._serving: list[Participant] = []
        self._methods = {name: _Method(self, module, name) for name in _METHODS}
        for name, method in self._methods.items():
            setattr(module, name, method)

    def remove(self) -> None:
        """Put the module's own methods back."""
        for name, method in self._methods.items():
            if self._module.__dict__.get(name) is not method:
                continue
            if method.was_instance_attribute:  # compiled modules have one
                setattr(self._module, name, method.original)
            else:
                delattr(self._module, name)

    def training_step(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the step under the participants' recording, and add their penalties to its loss."""
        module: Any = self._module
        serving = [participant for participant in list(self.participants) if participant.serves(module)]
        # validation_step may call training_step, and training_step may call itself
        if self._serving or not serving or not module.trainer.training:
            return call(*args, **kwargs)
        self._serving = serving
        self.task_loss = None
        try:
            with contextlib.ExitStack() as contexts:
                for participant in serving:
                    contexts.enter_context(participant.recording(module))
                output = call(*args, **kwargs)
            if module.automatic_optimization:
                output = self._joined_output(output)
            for participant in serving:
                participant.step_ran(module)
        except BaseException:
            # An error in the step ends fit, and another callback's error in on_exception could keep ours from hearing
            # of it. (An error in manual_backward may be caught by the step.)
            for participant in list(self.participants):
                detach(module, participant)
            raise
        finally:
            self._serving = []
        return output

    def manual_backward(self, call: Callable[..., Any], loss: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run ``manual_backward`` with the penalties of the runs that its loss depends on."""
        return call(self._joined(loss), *args, **kwargs)

    def teardown(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Let the participants that were not told of the end of ``fit`` leave."""
        for participant in list(self.participants):
            participant.detach()
        return call(*args, **kwargs)

    def _joined_output(self, output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._joined(output)
        if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
            joined: Any = copy.copy(output)
            joined["loss"] = self._joined(output["loss"])
            return joined
        return output  # None: the step is skipped; Lightning says what is wrong with anything else

    def _joined(self, loss: Tensor) -> Tensor:
        self.task_loss = loss.detach()
        joined = loss
        for participant in self._serving:
            penalty = participant.weighted_penalty(loss)
            if penalty is not None:
                joined = joined + penalty
        return joined


class _Method:
    """A method of one module that goes through its interception; wraps it so that Lightning reads its signature."""

    def __init__(self, interception: Interception, module: nn.Module, name: str) -> None:
        original = getattr(module, name)
        functools.update_wrapper(self, original)
        self.interception = interception
        self.module = module
        self.name = name
        self.original = original
        self.was_instance_attribute = name in module.__dict__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.interception, self.name)(self.original, *args, **kwargs)

    # A module that is copied or pickled while it trains (an EMA teacher, say) takes its own method along, not this.

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.was_instance_attribute:
            return copy.deepcopy(self.original, memo)
        return types.MethodType(getattr(type(self.module), self.name), copy.deepcopy(self.module, memo))

    def __reduce__(self) -> Any:
        if self.was_instance_attribute:
            return copy.copy, (self.original,)
        return getattr, (self.module, self.name)  # the class's: the attributes of the module are not restored yet
