"""Command lines for a user to type, in the way in which this process was started."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig


def typed(program: str, *arguments: str) -> str:
    """Return a command line of this package that a shell takes in this folder.

    Args:
        program: "train" or "compare".
        arguments: without a shell's quotes.
    """
    running = Path(sys.argv[0])
    script = running.with_name(f"{program}.py")
    if running.suffix == ".py" and script.is_file():
        return _quoted([_python(), shown(script), *arguments])
    return typed_installed(f"ortho-{program}", *arguments)


def typed_installed(program: str, *arguments: str) -> str:
    """Return a command line of an installed program, such as "tensorboard", preferably of this environment."""
    path = shutil.which(program, path=os.path.dirname(sys.executable)) or shutil.which(program)
    found = program if path is None or shutil.which(program) == path else shown(Path(path))
    return _quoted([found, *arguments])


def shown(path: Path) -> str:
    """Return a path from this folder where it lies in it, which is short to type; else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def own_overrides() -> list[str]:
    """Return the overrides that this command was given, those of Hydra's own options among them."""
    given = HydraConfig.get().overrides
    return [*given.task, *(text for text in given.hydra if not text.startswith("hydra.mode="))]


def override_key(override: str) -> str:
    """Return the key of an override of the configuration, without the sign that adds or removes it."""
    return override.partition("=")[0].lstrip("+~")


def _python() -> str:
    # the folders are compared: environments link to one interpreter, and the folder of the link makes the environment
    found = shutil.which("python")
    own = Path(sys.executable)
    return "python" if found and Path(found).parent.resolve() == own.parent.resolve() else shown(own)


def _quoted(words: list[str]) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
