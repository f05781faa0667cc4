"""Execution of the runs of a comparison, one or several at a time, with their progress."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ortho_lightning.experiments.common.invocation import shown
from ortho_lightning.experiments.comparison.progress import Progress
from ortho_lightning.experiments.comparison.runs import Run
from ortho_lightning.experiments.comparison.time_left import Timeline


def execute(runs: Sequence[Run], jobs: int) -> None:
    """Make the runs that are missing, ``jobs`` at a time, and show their progress.

    Raises:
        ConfigurationError: if a folder holds a run of another configuration, before anything runs.
    """
    epochs = []
    for run in runs:
        config = run.config()
        run.check(config)
        epochs.append(max(1, config.trainer.max_epochs or 1))
    waiting = [(run, count) for run, count in zip(runs, epochs, strict=True) if not run.finished]
    if len(waiting) < len(runs):
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are already finished", flush=True)
    if not waiting:
        return
    at_a_time = "one after the other" if jobs == 1 else f"{jobs} at a time"
    print(f"{_count(len(waiting), 'run')} of {_count(max(count for _, count in waiting), 'epoch')}, {at_a_time}; "
          f"the output of each is in {shown(waiting[0][0].folder.parent)}/*/output.log", flush=True)  # fmt: skip
    threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    timelines = [Timeline(run.name, run.arm, count, run.epochs, run.epochs) for run, count in waiting]
    with Progress(timelines, jobs) as progress, ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(run.execute, threads): run for run, _ in waiting}
        try:
            _watch(futures, timelines, progress)
        except BaseException:
            for future, run in futures.items():
                future.cancel()
                run.interrupt()
            raise


def _watch(futures: dict[Future[None], Run], timelines: Sequence[Timeline], progress: Progress) -> None:
    ended = 0
    while ended < len(futures):
        for (future, run), timeline in zip(futures.items(), timelines, strict=True):
            if timeline.ended is not None:
                continue
            has_ended = future.done()  # before its files are read, which it writes last
            _observe(run, timeline)
            if has_ended:
                future.result()
                timeline.ended = time.time()
                ended += 1
                progress.write(f"[{ended}/{len(futures)}] {run.name}: {_outcome(run)}")
        progress.update(time.time())
        time.sleep(0.2)


def _observe(run: Run, timeline: Timeline) -> None:
    """Note what the run's files say; their times are those of this machine's clock."""
    timeline.started, timeline.trained = run.started, run.trained
    done = run.epochs
    if done > timeline.done:
        timeline.done, timeline.last = done, time.time()


def _outcome(run: Run) -> str:
    record = run.record()
    if record.failure is not None:
        return f"failed, {record.failure}"
    accuracy = record.test_accuracy if record.test_accuracy is not None else record.val_accuracy
    return "done" if accuracy is None else f"{100 * accuracy:.2f}%"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
