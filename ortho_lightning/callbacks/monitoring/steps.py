"""Counting optimizer steps."""

from __future__ import annotations


class StepCounter:
    """Counts the batches after which an optimizer stepped: an accumulation window is one step."""

    def __init__(self) -> None:
        self.step = 0
        self.batches_without_step = 0
        self._stepped = False

    def begin_fit(self) -> None:
        """Forget a batch that an exception cut short."""
        self._stepped = False
        self.batches_without_step = 0

    def optimizer_steps(self) -> None:
        """Note that an optimizer steps in this batch."""
        self._stepped = True

    def end_batch(self) -> int | None:
        """Return the number of the step that ends with this batch, counted from 0, or None if none does."""
        if not self._stepped:
            self.batches_without_step += 1
            return None
        self._stepped = False
        self.batches_without_step = 0
        self.step += 1
        return self.step - 1

    def state_dict(self) -> dict[str, int]:
        """Return the number of steps done; another callback may save between the optimizer's step and batch end."""
        return {"step": self.step + self._stepped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved number of steps; a finder that runs within a batch restores what it saved in it."""
        self.step = state["step"] - self._stepped
