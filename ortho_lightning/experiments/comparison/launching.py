"""Command lines and environments of the processes that a comparison starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path


def command(module: str, overrides: Sequence[str], folder: Path) -> list[str]:
    """Return the command that runs a module of the package as a Hydra application in a folder."""
    return [sys.executable, "-m", module, *overrides, f"hydra.run.dir={quoted(folder)}"]


def quoted(path: Path) -> str:
    """Return a path as a value of Hydra's grammar, in which brackets and commas have a meaning."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a process of the comparison, with more variables."""
    found = {**os.environ, **variables}
    if "SLURM_NTASKS" in found:
        # the run starts its processes itself: Lightning must not take the tasks of the job around it for them
        found["SLURM_JOB_NAME"] = "interactive"
    return found
