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
    """Return a command line that a shell takes in this folder.

    Args:
        program: "train" or "compare", or the name of an installed program.
        arguments: without a shell's quotes.
    """
    running = Path(sys.argv[0])
    script = running.with_name(f"{program}.py")
    if running.suffix == ".py" and script.is_file():
        words = [_python(), shown(script)]
    else:
        words = [_installed(f"ortho-{program}") or _installed(program) or f"ortho-{program}"]
    return subprocess.list2cmdline([*words, *arguments]) if os.name == "nt" else shlex.join([*words, *arguments])


def shown(path: Path) -> str:
    """Return a path from this folder where it lies in it, which is short to type; else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def own_overrides() -> list[str]:
    """Return the overrides that this command was given, those of Hydra's own options among them."""
    given = HydraConfig.get().overrides
    return [*given.task, *(text for text in given.hydra if not text.startswith("hydra.mode="))]


def _python() -> str:
    # the folders are compared: environments link to one interpreter, and the folder of the link makes the environment
    found = shutil.which("python")
    own = Path(sys.executable)
    return "python" if found and Path(found).parent.resolve() == own.parent.resolve() else shown(own)


def _installed(name: str) -> str | None:
    """How to call a program of this environment; None if it has no such program."""
    path = shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)
    if path is None:
        return None
    return name if shutil.which(name) == path else shown(Path(path))
