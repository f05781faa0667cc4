"""One run of a comparison: a training in a process and a folder of its own, done once, and resumed where it was cut."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.training.resume import identity
from ortho_lightning.files import write_json

LABEL = "run.json"
FAILURE = "failure.json"
RESULTS = "results.json"
UNFINISHED = "not finished"


@dataclass
class Run:
    """A training of one arm with one seed.

    Args:
        arm: the regularizer's name, with what is tried of it while tuning.
        seed: of everything random.
        folder: where all of it goes.
        overrides: of the training's configuration, regularizer and seed among them.
        settings: those of them that are the arm's own.
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
    _log_began: int = field(default=0, init=False, repr=False)

    def config(self) -> DictConfig:
        """The configuration of the training; only inside of one of Hydra's applications.

        Raises:
            ConfigurationError: for overrides that this arm does not take.
        """
        try:
            return compose("train", [*self.overrides, f"run_dir={quoted(self.folder)}"])
        except HydraException as error:
            reason = " ".join(str(error).split())
            raise ConfigurationError(f"{self.arm}, seed {self.seed}: {reason}; every arm gets the overrides") from error

    def check(self, config: DictConfig) -> None:
        """Refuse a folder that holds a run of another configuration than ``config``.

        Raises:
            ConfigurationError: naming what differs.
        """
        saved = self.folder / "config.yaml"
        if not saved.is_file():
            return
        wanted = flat(exact_identity(OmegaConf.to_container(config, resolve=True)))
        there = flat(exact_identity(OmegaConf.to_container(OmegaConf.load(saved))))
        differing = [key for key in {**wanted, **there} if wanted.get(key) != there.get(key)]
        if differing:
            shown = ", ".join(f"{key}={there.get(key)} (now {wanted.get(key)})" for key in differing[:5])
            raise ConfigurationError(
                f"{self.folder} holds a run of another configuration: {shown}. Give another hydra.run.dir, or remove it"
            )

    @property
    def finished(self) -> bool:
        return (self.folder / RESULTS).is_file()

    @property
    def epochs(self) -> int:
        """How many epochs stand in its history."""
        try:
            return len(json.loads((self.folder / "history.json").read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return 0

    def execute(self, threads: int | None = None) -> None:
        """Train, unless it is done: from its checkpoint if there is one. Why it failed stands in its folder afterwards.

        Args:
            threads: of the process; None: as many as torch finds.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / ".lock", lambda: self.interrupted) as lock:
            if self.finished or self.interrupted:
                return
            (self.folder / FAILURE).unlink(missing_ok=True)
            label = {"experiment": self.experiment, "regularizer": self.arm, "seed": self.seed}
            lists = {"settings": [*self.settings], "overrides": [*self.overrides]}
            write_json(self.folder / LABEL, {**label, **lists})
            checkpoint = self.folder / "checkpoints" / "last.ckpt"
            options = [f"ckpt_path={quoted(checkpoint)}"] if checkpoint.is_file() else []
            status = self._train([*options, "trainer.enable_progress_bar=false"], threads, lock)
            # a process that is told to end may end with status 0
            if not self.finished and not self.interrupted:
                write_json(self.folder / FAILURE, {"reason": self._reason(status)})

    def interrupt(self) -> None:
        """End the training; it can be resumed."""
        self.interrupted = True
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def _train(self, options: Sequence[str], threads: int | None, lock: int | None) -> int:
        command = [sys.executable, "-m", "ortho_lightning.experiments.train", *self.overrides, *options]
        # with the whole stack trace the last line of the log is the error itself
        environment = {**environment_of_runs(), "HYDRA_FULL_ERROR": "1"}
        if threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(threads))
        with (self.folder / "output.log").open("a") as output:
            self._log_began = output.tell()
            self.process = subprocess.Popen(
                [*command, f"hydra.run.dir={quoted(self.folder)}"],
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

    def record(self) -> dict[str, Any]:
        """Its results, or why there are none."""
        return record_of(self.folder, self.arm, self.seed)


def record_of(folder: Path, arm: str | None = None, seed: int | None = None) -> dict[str, Any]:
    """The record of the run in a folder: its results, or None of them and the reason as ``failure``.

    Args:
        folder: of the run.
        arm, seed: of the run; None: as they stand in the folder.
    """
    label = label_of(folder)
    record: dict[str, Any] = {
        "regularizer": arm if arm is not None else label.get("regularizer"),
        "seed": seed if seed is not None else label.get("seed"),
        "failure": None,
    }
    results = _read(folder / RESULTS)
    if results is None:
        failure = _read(folder / FAILURE)
        return {**record, "failure": UNFINISHED if failure is None else failure["reason"]}
    own = {key: value for key, value in record.items() if value is not None}
    return {"failure": None, **results, **own}


def label_of(folder: Path) -> dict[str, Any]:
    """What compare wrote of a run before it began; empty for other runs."""
    return dict(_read(folder / LABEL) or {})


def exact_identity(config: Any) -> dict[str, Any]:
    """What makes a finished run the wanted one: the identity of a resumable one, and its length."""
    length = {key: config["trainer"][key] for key in ("max_epochs", "max_steps")}
    kept = identity(config)
    return {**kept, "trainer": {**kept["trainer"], **length}}


def environment_of_runs() -> dict[str, str]:
    """What a training is started with."""
    environment = dict(os.environ)
    if "SLURM_NTASKS" in environment:
        # the run starts its processes itself: Lightning must not take the tasks of the job around it for them
        environment["SLURM_JOB_NAME"] = "interactive"
    return environment


def quoted(path: Path) -> str:
    """A path as a value of Hydra's grammar, in which brackets and commas mean something."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@contextlib.contextmanager
def held(path: Path, given_up: Callable[[], bool] = lambda: False) -> Iterator[int | None]:
    """Hold a lock on a file; wait where another process holds it. Children that get the descriptor keep the lock.

    Where there are no such locks (Windows, some shared disks), or when the waiting is given up, nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while not given_up():
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    print(f"{path.parent} is being worked on by another process: waiting for it", flush=True)
                told = True
                time.sleep(0.5)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP):
                    raise
                break
        yield descriptor
    finally:
        os.close(descriptor)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    if not isinstance(config, dict):
        return {prefix.removesuffix("."): config}
    return {key: value for name, part in config.items() for key, value in flat(part, f"{prefix}{name}.").items()}
