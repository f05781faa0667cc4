"""The next commands after a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ortho_lightning.experiments.common.invocation import shown, typed, typed_installed

_OWN_DATA = ("experiment=modelnet40", "data.root=PATH", "data.num_classes=N")


def next_steps(folder: Path, overrides: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, str]]:
    """Return the next three commands, each with what it is for.

    Args:
        folder: of the comparison.
        overrides: of the command that made it.
        seeds: of its runs.
    """
    more = ",".join(map(str, dict.fromkeys([*seeds, *range(max(3, 2 * len(seeds)))])))
    others = [text for text in overrides if not text.startswith("seeds=")]
    return [
        ("To see every curve, histogram and figure:", typed_installed("tensorboard", "--logdir", shown(folder))),
        (
            "To train on your own meshes of N classes, <class>/{train,test}/*.off under PATH (see README.md for your "
            "own module):",
            typed("compare", *_OWN_DATA),
        ),
        ("To add seeds without repeating these runs:", typed("compare", *others, f"seeds=[{more}]")),
    ]
