"""Writing files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, renamed to ``path`` when the block ends without an error.

    Whatever writes there, the file gets the mode that the umask asks for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # not mkstemp, whose files only their owner may read, also under the final name
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # safetensors replaces the file by one that only its owner may read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove temporary files for ``path`` that processes of this machine left behind when they were killed."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(platform.node())}.*.*"):
        pid = temporary.name.split(".")[-2]
        if pid.isdigit() and not _is_alive(int(pid)):
            temporary.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows whole or not at all; a column for each key that any of them has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def write_text(path: Path, text: str) -> None:
    """Write text whole or not at all: UTF-8, and the same bytes on every system."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_rows(folder: Path, name: str, rows: Sequence[dict[str, Any]], text: str) -> None:
    """Write rows as ``name.json`` and ``name.csv``, and their text as ``name.md``, each whole or not at all."""
    write_json(folder / f"{name}.json", rows)
    write_csv(folder / f"{name}.csv", rows)
    write_text(folder / f"{name}.md", text)
