"""Execution of the runs of a comparison, one or several at a time, under one progress bar."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ortho_lightning.experiments.comparison.runs import Run


def execute(runs: Sequence[Run], jobs: int) -> None:
    """Make the runs that are missing, ``jobs`` at a time, under one progress bar over all epochs.

    Raises:
        ConfigurationError: if a folder holds a run of another configuration, before anything runs.
    """
    epochs = {}
    for run in runs:
        config = run.config()
        run.check(config)
        epochs[run.folder] = max(1, config.trainer.max_epochs or 1)
    there = sum(run.finished for run in runs)
    if there:
        print(f"{there} of {len(runs)} runs are there already", flush=True)
    waiting = [run for run in runs if not run.finished]
    threads = None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)
    with (
        tqdm(total=sum(epochs[run.folder] for run in waiting), unit="epoch", disable=None, leave=False) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        futures = {pool.submit(run.execute, threads): run for run in waiting}
        try:
            _watch(futures, epochs, bar)
        except BaseException:
            for future, run in futures.items():
                future.cancel()
                run.interrupt()
            raise


def _watch(futures: dict[Future[None], Run], epochs: dict[Path, int], bar: Any) -> None:
    told: set[Path] = set()
    while len(told) < len(futures):
        for future, run in futures.items():
            if future.done() and run.folder not in told:
                future.result()
                told.add(run.folder)
                tqdm.write(f"[{len(told)}/{len(futures)}] {run.arm}, seed {run.seed}: {_outcome(run)}", file=sys.stdout)
        done = (epochs[run.folder] if run.folder in told else run.epochs for run in futures.values())
        bar.update(sum(done) - bar.n)
        bar.set_postfix_str(f"{len(told)} of {len(futures)} runs", refresh=False)
        time.sleep(0.2)
    sys.stdout.flush()


def _outcome(run: Run) -> str:
    record = run.record()
    if record.failure is not None:
        return f"failed, {record.failure}"
    accuracy = record.test_accuracy if record.test_accuracy is not None else record.val_accuracy
    return "done" if accuracy is None else f"{100 * accuracy:.2f}%"
