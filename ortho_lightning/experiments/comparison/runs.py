"""One run of a comparison: a training in its own process and folder, done once and resumed after an interruption."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import plain_message
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.experiments.comparison import launching
from ortho_lightning.experiments.comparison.launching import quoted
from ortho_lightning.experiments.comparison.locks import held
from ortho_lightning.experiments.comparison.run_folder import (
    FAILURE,
    RunLabel,
    config_written,
    configuration_of,
    epochs_done,
    identity_of,
    is_finished,
    record_of,
    write_failure,
    write_label,
)


@dataclass
class Run:
    """A training of one arm with one seed.

    Args:
        arm: the regularizer's name.
        seed: of everything random.
        folder: of all its files.
        overrides: of the training's configuration, regularizer and seed among them.
        settings: those of the overrides that are the arm's own.
        experiment: the name of what is compared.
    """

    arm: str
    seed: int
    folder: Path
    overrides: Sequence[str]
    settings: Sequence[str] = ()
    experiment: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)
    interrupted: bool = field(default=False, init=False)
    started: float | None = field(default=None, init=False)
    """When this object started its process, in seconds of the clock."""
    _log_began: int = field(default=0, init=False, repr=False)

    def config(self) -> DictConfig:
        """Compose the configuration of the training; only within a Hydra application.

        Raises:
            ConfigurationError: for overrides that this arm does not take.
        """
        try:
            return compose("train", [*self.overrides, f"run_dir={quoted(self.folder)}"])
        except HydraException as error:
            raise ConfigurationError(
                f"{self.name}, with the overrides of all arms and its own: {plain_message(error)}"
            ) from error

    def check(self, config: DictConfig) -> None:
        """Reject a folder that holds a run of another configuration than ``config``.

        Raises:
            ConfigurationError: naming what differs.
        """
        there = configuration_of(self.folder)
        if there is None:
            return
        wanted = identity_of(config)
        differing = [key for key in {**wanted, **there} if wanted.get(key) != there.get(key)]
        if differing:
            shown = ", ".join(f"{key}={there.get(key)} (now {wanted.get(key)})" for key in differing[:5])
            raise ConfigurationError(
                f"{self.folder} holds a run of another configuration: {shown}. Give another hydra.run.dir, or remove it"
            )

    @property
    def finished(self) -> bool:
        """Whether its results are there."""
        return is_finished(self.folder)

    @property
    def epochs(self) -> int:
        """The number of epochs in its history."""
        return epochs_done(self.folder)

    @property
    def name(self) -> str:
        """Arm and seed in words."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def trained(self) -> float | None:
        """When the process that it started was ready to train, in seconds of the clock; None before that."""
        written = config_written(self.folder)
        return written if written is not None and self.started is not None and written >= self.started else None

    def record(self) -> RunRecord:
        """Return its results, or the reason why there are none."""
        return record_of(self.folder, self.arm, self.seed)

    def execute(self, threads: int | None = None) -> None:
        """Train, unless it is done: from its checkpoint if there is one. A failure leaves its reason in the folder.

        Args:
            threads: of the process; None: as many as torch finds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / ".lock", lambda: self.interrupted) as lock:
            if self.finished or self.interrupted:
                return
            (self.folder / FAILURE).unlink(missing_ok=True)
            settings, overrides = list(self.settings), list(self.overrides)
            write_label(self.folder, RunLabel(self.experiment, self.arm, self.seed, settings, overrides))
            checkpoint = self.folder / "checkpoints" / "last.ckpt"
            options = [f"ckpt_path={quoted(checkpoint)}"] if checkpoint.is_file() else []
            status = self._train([*options, "trainer.enable_progress_bar=false"], threads, lock)
            # a process that is told to end may end with status 0
            if not self.finished and not self.interrupted:
                write_failure(self.folder, self._reason(status))

    def interrupt(self) -> None:
        """End the training; it can be resumed."""
        self.interrupted = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def _train(self, options: Sequence[str], threads: int | None, lock: int | None) -> int:
        # with the whole stack trace the last line of the log is the error itself
        environment = launching.environment(HYDRA_FULL_ERROR="1")
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        with (self.folder / "output.log").open("a") as output:
            self._log_began = output.tell()
            self.started = time.time()
            self.process = subprocess.Popen(
                launching.command("ortho_lightning.experiments.train", [*self.overrides, *options], self.folder),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[] if lock is None else [lock],  # the training holds the lock, also when it outlives us
            )
            if self.interrupted:
                self.process.terminate()
            return self.process.wait()

    def _reason(self, status: int) -> str:
        log = self.folder / "output.log"
        own = log.read_bytes()[self._log_began :].decode(errors="replace")  # earlier tries wrote to it too
        lines = [line for line in own.splitlines() if line.strip()]
        ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
        return f"{ended}: {lines[-1] if lines else 'no output'} (see {log})"
