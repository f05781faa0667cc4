"""Embeddings of the STS benchmark: encoded pairs of sentences with a similarity rated by people."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ortho_lightning.errors import DataError

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Vectors of pairs, ``a`` and ``b`` (N, d) floating point, and their ``score`` (N,) from 0 to 5."""

    a: np.ndarray
    b: np.ndarray
    score: np.ndarray


class STSEmbeddings:
    """Embeddings of one or more encoders: files ``<encoder>-{train,dev,test}.npz`` with arrays a, b and score.

    Args:
        root: the folder of the files, or a folder that holds them in ``stsb``.

    Raises:
        DataError: for a folder without such files, an encoder without one of its splits, or a file that is damaged or
            of another shape, naming it.
    """

    def __init__(self, root: str | Path) -> None:
        folder = Path(root).expanduser()
        if not list(folder.glob("*-dev.npz")) and (folder / "stsb").is_dir():
            folder = folder / "stsb"
        names = sorted(path.name.removesuffix("-dev.npz") for path in folder.glob("*-dev.npz"))
        if not names:
            found = "holds no embeddings" if folder.is_dir() else "does not exist"
            raise DataError(
                f"{folder} {found}. Give data.root=PATH as a folder with <encoder>-train.npz, -dev.npz and "
                "-test.npz, each with arrays a, b (N, d) and score (N,)"
            )
        self.encoders = {name: {split: _load(folder / f"{name}-{split}.npz") for split in SPLITS} for name in names}
        for name, splits in self.encoders.items():
            widths = {split: pairs.a.shape[1] for split, pairs in splits.items()}
            if len(set(widths.values())) > 1:
                raise DataError(f"{folder}: the splits of {name} have vectors of different sizes: {widths}")

    def sentences(self, encoder: str, splits: tuple[str, ...] = SPLITS) -> Iterator[np.ndarray]:
        """Yield the vectors of all sentences, batch by batch, without the scores."""
        for split in splits:
            pairs = self.encoders[encoder][split]
            yield pairs.a
            yield pairs.b


def _load(path: Path) -> Pairs:
    try:
        with np.load(path) as stored:
            a, b, score = (stored[key] for key in ("a", "b", "score"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: an encoder needs the splits {', '.join(SPLITS)}") from None
    except KeyError as error:
        raise DataError(f"{path}: {error.args[0]}; it must hold arrays a, b and score") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    kinds_fit = a.dtype.kind == b.dtype.kind == "f" and score.dtype.kind in "fiu"
    if a.ndim != 2 or a.shape != b.shape or score.shape != a.shape[:1] or not kinds_fit:
        raise DataError(
            f"{path}: a {a.dtype} {a.shape}, b {b.dtype} {b.shape}, score {score.dtype} {score.shape}; a and b must be "
            "floating point (N, d), and score numbers (N,)"
        )
    if not len(score):
        raise DataError(f"{path} holds no pairs")
    if not np.isfinite(score).all():
        raise DataError(f"{path}: score {int((~np.isfinite(score)).argmax())} is not a finite number")
    return Pairs(a, b, score)
