"""The title of a report, and the table of how the comparison was made."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ortho_lightning.experiments.common.nested import flat
from ortho_lightning.experiments.report.comparison import Comparison
from ortho_lightning.experiments.report.findings import listed
from ortho_lightning.experiments.report.table import MISSING, Table

_NAMED = 6  # arms that a title has room for
_TOLD_APART = ("command", "commits")  # settings that have a place of their own


def title(comparison: Comparison) -> str:
    """Return the experiment and the arms, or their number where there are many."""
    arms = comparison.summary.arm_names
    named = f"{len(arms)} arms" if len(arms) > _NAMED else listed(arms) if arms else "no arms"
    return f"{comparison.settings.experiment}: {named}"


def settings_table(comparison: Comparison) -> Table:
    """Return how the comparison was made, one row per setting; nested ones by their path."""
    settings = flat(asdict(comparison.settings))
    rows = [[key, _text(value)] for key, value in settings.items() if key not in _TOLD_APART]
    return Table("settings", "Settings and machine", ["setting", "value"], rows)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return MISSING if value is None else value if isinstance(value, str) else json.dumps(value)
