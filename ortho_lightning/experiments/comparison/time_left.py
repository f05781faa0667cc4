"""The estimate of the time that the rest of a comparison takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortho_lightning.experiments.comparison.measures import mean


@dataclass
class Timeline:
    """What a run has done so far, with times in seconds; None for what has not happened.

    A run starts (imports, data), trains epoch after epoch, and ends (tests, figures).

    Args:
        name: of the run, for people.
        arm: the regularizer's name.
        epochs: of the whole run.
        before: epochs that an earlier try has done.
        done: epochs that are done, those before included.
        started: when its process started.
        trained: when its first step could begin.
        last: when its last epoch so far ended.
        ended: when its process ended.
    """

    name: str
    arm: str
    epochs: int
    before: int = 0
    done: int = 0
    started: float | None = None
    trained: float | None = None
    last: float | None = None
    ended: float | None = None

    @property
    def running(self) -> bool:
        """Whether it has started and not ended."""
        return self.started is not None and self.ended is None

    @property
    def settled(self) -> int:
        """Epochs that need no more time: all of them where the run has ended, also by a failure."""
        return self.done if self.ended is None else self.epochs

    @property
    def pace(self) -> tuple[float, int]:
        """Seconds in which epochs were trained, and the number of these epochs."""
        if self.trained is None or self.last is None or self.done <= self.before:
            return 0.0, 0
        return max(0.0, self.last - self.trained), self.done - self.before

    @property
    def start(self) -> float | None:
        """Seconds from the start of the process to that of the training."""
        return None if self.started is None or self.trained is None else max(0.0, self.trained - self.started)

    @property
    def end(self) -> float | None:
        """Seconds from the last epoch to the end of the process."""
        return None if self.ended is None or self.last is None else max(0.0, self.ended - self.last)


def seconds_left(runs: Sequence[Timeline], jobs: int, now: float) -> float | None:
    """Estimate the seconds until all runs have ended, from the first epoch that any of them has finished.

    The epochs to come take as long as those of the same arm did, or of all arms where it has none yet. Starts and ends
    of runs take as long as those that were seen.

    Args:
        runs: of the comparison, ended ones too.
        jobs: runs at a time.
        now: the time.

    Returns:
        None before the first epoch.
    """
    every = _pace(runs)
    if every is None:
        return None
    start, end = (mean(seen) or 0.0 for seen in ([run.start for run in runs], [run.end for run in runs]))
    left = []
    for run in runs:
        if run.ended is not None:
            continue
        own = _pace([one for one in runs if one.arm == run.arm])
        pace, remaining = every if own is None else own, max(0, run.epochs - run.done)
        if run.started is None:
            left.append(start + pace * remaining + end)
        elif run.trained is None:
            left.append(max(0.0, start - (now - run.started)) + pace * remaining + end)
        else:
            # an epoch that takes longer than the others says nothing about those after it
            since = min(now - (run.last or run.trained), pace if remaining else end)
            left.append(pace * remaining + end - max(0.0, since))
    return max([sum(left) / jobs, *left])


def in_words(seconds: float | None) -> str:
    """Return an estimate as text, rounded as it deserves.

    Example:
        >>> in_words(95), in_words(8000), in_words(None)
        ('about 2 min left', 'about 2 h 10 min left', 'time left: known after the first epoch')
    """
    if seconds is None:
        return "time left: known after the first epoch"
    if seconds < 1:
        return "almost done"
    if seconds < 60:
        return f"about {max(10, 10 * round(seconds / 10))} s left"
    if seconds < 3600:
        return f"about {round(seconds / 60)} min left"
    hours, minutes = divmod(10 * round(seconds / 600), 60)
    return f"about {hours} h {minutes} min left" if minutes else f"about {hours} h left"


def _pace(runs: Sequence[Timeline]) -> float | None:
    """Mean seconds of an epoch; None before the first."""
    seconds, epochs = (sum(parts) for parts in zip(*(run.pace for run in runs), strict=True))
    return seconds / epochs if epochs else None
