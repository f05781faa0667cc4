"""A cache for data that takes long to decode."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from ortho_lightning.data.module import Split
from ortho_lightning.files import whole_file

SPLITS = ("train", "test")


def cached(
    name: str, source: Path, files: Iterable[Path], cache_dir: Path, decode: Callable[[], dict[str, Split]]
) -> dict[str, Split]:
    """Return decoded data, from the cache if the same files were decoded before.

    Args:
        name: of the kind of data, with every option that changes the result of decoding.
        source: folder or file of the data.
        files: all files that ``decode`` reads.
        cache_dir: folder of the cache.
        decode: called without arguments; if it raises, nothing is cached.
    """
    path = cache_dir / f"{name}-{_identity(source, files)}.pt"
    if path.exists():
        try:
            stored = torch.load(path, weights_only=True)
            return {split: (stored[f"{split}_x"], stored[f"{split}_y"]) for split in SPLITS}
        except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError):
            rank_zero_warn(f"The cache {path} is damaged and is made anew.")
    rank_zero_info(f"Decoding {source} once; the result is kept in {path}.")
    data = decode()
    with whole_file(path) as temporary:
        torch.save({f"{s}_{n}": t for s, split in data.items() for n, t in zip("xy", split, strict=True)}, temporary)
    return data


def _identity(source: Path, files: Iterable[Path]) -> str:
    """A name that changes when a file of the source is added, replaced or removed."""
    digest = hashlib.sha256(str(source.resolve()).encode())
    for path in sorted(files):
        stamp = path.stat()
        digest.update(f"|{path}|{stamp.st_size}|{stamp.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]
