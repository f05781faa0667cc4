"""Tables as CSV, for programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ortho_lightning.files import whole_file


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows whole or not at all; a column for each key that any of them has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)
