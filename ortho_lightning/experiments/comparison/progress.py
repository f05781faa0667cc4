"""The progress of a comparison on the screen: a refreshed line in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from ortho_lightning.experiments.comparison.time_left import Timeline, in_words, seconds_left

_LINES = 40  # about so many in a log, however long the comparison is


class Progress:
    """Shows the epoch of each running arm and the time left; a context manager.

    Args:
        runs: those that this process makes; whoever makes them keeps them up to date.
        jobs: runs at a time.
    """

    def __init__(self, runs: Sequence[Timeline], jobs: int) -> None:
        self._runs = runs
        self._jobs = jobs
        self._told = [run.done for run in runs]
        self._total = sum(run.epochs for run in runs)
        self._every = max(1, self._total // _LINES)
        self._next = sum(self._told) + 1
        self._bar = tqdm(
            total=self._total,
            initial=sum(self._told),
            bar_format="|{bar:15}| {n_fmt} of {total_fmt} epochs{postfix}. {desc}",  # what is cut off comes last
            disable=None,  # where nothing can be refreshed
            dynamic_ncols=True,
            leave=False,
        )

    def __enter__(self) -> Progress:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the refreshed line."""
        self._bar.close()

    def write(self, text: str) -> None:
        """Write a line that stays."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def update(self, now: float) -> None:
        """Show how far the runs are.

        Args:
            now: the time, on the clock of the timelines.
        """
        done = sum(run.settled for run in self._runs)
        left = in_words(seconds_left(self._runs, self._jobs, now))
        if self._bar.disable:
            self._log(done, left)
            return
        running = [f"{run.name}: {_epoch(run)}" for run in self._runs if run.running]
        self._bar.n = done
        self._bar.set_description_str("; ".join(running), refresh=False)
        self._bar.set_postfix_str(left, refresh=False)
        self._bar.refresh()

    def _log(self, done: int, left: str) -> None:
        """Write a line for what has changed since the last one: the first epoch, then every so many."""
        if done < self._next:
            return
        told = zip(self._runs, self._told, strict=True)
        changed = [f"{run.name}: {_epoch(run)}" for run, before in told if run.done > before]
        self._next = done + self._every
        self._told = [run.done for run in self._runs]
        if changed:
            self.write(f"{'; '.join(changed)}; {done} of {self._total} in all, {left}")


def _epoch(run: Timeline) -> str:
    return "starting" if run.trained is None else f"{run.done} of {run.epochs} epochs"
