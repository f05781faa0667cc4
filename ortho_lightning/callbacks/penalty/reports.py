"""Warnings about what goes wrong in a training, each given once a fit."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_utilities.core.rank_zero import rank_zero_warn

from ortho_lightning.errors import listed

_MOST = 5  # layers that a message names where many are likely


class Reports:
    """Warns about each topic once.

    Args:
        name: of the callback.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._reported: set[str] = set()

    def unjoined_runs(self) -> None:
        """Warn that runs joined no backward under manual optimization."""
        self.once(
            "unjoined",
            "runs of its layers were in no backward pass, so their penalty is lost. Use self.manual_backward(loss), "
            "not loss.backward(), on losses that depend on the layers.",
        )

    def independent_loss(self) -> None:
        """Warn that the loss of a step does not depend on the layers, although they ran."""
        self.once(
            "independent",
            "the loss that training_step returned depends on no run of its layers, so nothing was added to it. A run "
            "whose output is detached does not count: choose the layers that the loss trains with layers=.",
        )

    def missing_steps(self, batches: int) -> None:
        """Warn that no optimizer step was seen under manual optimization."""
        self.once(
            "stepless",
            f"no optimizer step was seen in {batches} batches, so its schedule and logging do not advance. Step the "
            "optimizers that self.optimizers() returns.",
        )

    def silent_layers(self, names: Sequence[str], steps: int) -> None:
        """Warn of selected layers that did not run."""
        self.once(
            "silent",
            f"no forward of {', '.join(map(repr, names))} was seen in {steps} training steps, so nothing "
            "is added for them. Some modules use a layer's weight without calling the layer (MultiheadAttention "
            "does with out_proj: layers='*.attention:out' selects it as a part of that module), code compiled before "
            "fit hides its layers, and a penalty on outputs passes over runs inside of torch.func: leave such layers "
            "out with exclude=, or compile after the Trainer has started.",
        )

    def frozen_layers(self, names: Sequence[str], steps: int) -> None:
        """Warn of selected layers that ran, but had no weight to train."""
        shown = listed([repr(name) for name in names], _MOST)
        self.once(
            "frozen",
            f"the weights of {shown} required no gradient in the {steps} training steps so far, so nothing was added "
            "for them. If they stay frozen, leave them out with exclude=, or choose others with layers=.",
        )

    def unmoved_layers(self, names: Sequence[str], steps: int) -> None:
        """Warn of selected layers whose weights were in no optimizer's step."""
        self.once(
            "unmoved",
            f"the weights of {', '.join(map(repr, names))} were in none of {steps} optimizer steps, so nothing is "
            "applied to them: they are frozen, had no gradient, or belong to no optimizer. Leave such layers out with "
            "exclude=.",
        )

    def unreached_layers(self, names: Sequence[str], steps: int) -> None:
        """Warn of selected layers whose runs the loss does not depend on."""
        self.once(
            "unreached",
            f"{', '.join(map(repr, names))} ran, but no loss in {steps} training steps depends on the result, so "
            "nothing is added for them: leave them out with exclude=, or let the loss use their output.",
        )

    def no_weight(self, weight: str) -> None:
        """Warn that no measurement set the weight."""
        self.once(
            "no weight",
            f"{weight}: no step so far gave a ratio of the gradients, so nothing was added to the loss. The selected "
            "layers must run in training_step, and both the loss and the penalty must depend on their weights; give a "
            "number as weight otherwise.",
        )

    def once(self, topic: str, message: str) -> None:
        """Warn, unless that was done before."""
        if topic not in self._reported:
            self._reported.add(topic)
            rank_zero_warn(f"OrthogonalityCallback({self._name!r}): {message}")
