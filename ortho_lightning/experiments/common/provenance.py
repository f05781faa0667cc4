"""The provenance of a number: configuration, commit, versions and machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.files import write_json, write_text

_PACKAGES = (
    "ortho-lightning",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "torchmetrics",
    "hydra-core",
    "scipy",
    "safetensors",
    "tensorboard",
)


def save_provenance(config: DictConfig, folder: Path) -> None:
    """Write ``config.yaml`` (resolved) and ``versions.json`` into ``folder``."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_json(folder / "versions.json", {"git": git_commit(), "python": platform.python_version(), **versions()})


def git_commit() -> str | None:
    """Return the commit of the package's checkout, with "+changes" if it was edited; None outside of a checkout."""
    package = Path(__file__).resolve().parents[2]
    try:
        top = subprocess.run(
            ["git", "-C", str(package), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True
        )
        if Path(top.stdout.strip()) != package.parent:
            return None  # installed into some other project's checkout
        commit = subprocess.run(
            ["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "-C", str(package), "status", "--porcelain"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """Describe the machine that the numbers were measured on."""
    found: dict[str, Any] = {
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def command_line(overrides: Sequence[str]) -> str:
    """Return the command that made a comparison, as a shell takes it."""
    return shlex.join(["python", "scripts/compare.py", *overrides])


def versions(*more: str) -> dict[str, str | None]:
    """Return the versions of the packages that a number depends on, and of ``more``; None for one not installed."""
    found: dict[str, str | None] = {}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
