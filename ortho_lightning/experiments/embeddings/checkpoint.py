"""Moments of the files of a folder that are done, so that a fit that was stopped goes on."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ortho_lightning import functional as OF
from ortho_lightning.experiments.embeddings.processes import Processes
from ortho_lightning.experiments.embeddings.vector_files import Dataset, VectorFile
from ortho_lightning.files import remove_leftovers, whole_file


class FitCheckpoint:
    """A hidden file beside the output with the moments of the files that are done, rewritten after each.

    It counts only for the same files (names, sizes and times of change), options and number of processes.

    Args:
        out: file of the whitening.
        dataset: the files to fit on.
        options: of the fit, as text.
        processes: that share the files.
    """

    def __init__(self, out: Path, dataset: Dataset, options: str, processes: Processes) -> None:
        self._out = out
        self._path = out.with_name(f".{out.name}.moments-{processes.rank}-of-{processes.count}")
        stamps = [stamp(shard.path) for shard in dataset.shards]
        self._identity = hashlib.sha256(json.dumps([stamps, options]).encode()).hexdigest()
        self.done: list[str] = []
        self.moments: OF.Moments | None = None
        remove_leftovers(self._path)
        remove_leftovers(out)
        self._load()

    def add(self, shard: VectorFile, moments: OF.Moments) -> None:
        """Add the moments of a file, and write them."""
        self.moments = moments if self.moments is None else self.moments.merge(moments)
        self.done.append(shard.path.name)
        found, tails = self.moments, self.moments.tails
        assert tails is not None
        numbers = [found.count, found.total, found.squares, found.precision, found.weights is not None]
        tensors = {
            "mean": found.mean,
            "scatter": found.scatter,
            "cubic": tails.cubic,
            "quartic": tails.quartic,
            "numbers": found.mean.new_tensor(numbers),
        }
        note = {"identity": self._identity, "done": json.dumps(self.done)}
        with whole_file(self._path) as temporary:
            save_file(tensors, temporary, metadata=note)

    def remove(self) -> None:
        """Remove the files of all processes, when the whitening is written."""
        for path in self._out.parent.glob(f".{glob.escape(self._out.name)}.moments-*-of-*"):
            path.unlink(missing_ok=True)

    def _load(self) -> None:
        with contextlib.suppress(OSError, SafetensorError), safe_open(self._path, "pt") as file:
            note = file.metadata() or {}
            if note.get("identity") != self._identity:
                return
            count, total, squares, precision, weighted = file.get_tensor("numbers").tolist()
            self.moments = OF.Moments(
                int(count),
                file.get_tensor("mean"),
                file.get_tensor("scatter"),
                OF.WeightSums(total, squares) if weighted else None,
                OF.Tails(file.get_tensor("cubic"), file.get_tensor("quartic")),
                precision,
            )
            self.done = json.loads(note["done"])


def stamp(path: Path) -> list[Any]:
    """Return name, size and time of change of a file, which tell whether it is the same as before."""
    about = path.stat()
    return [path.name, about.st_size, about.st_mtime_ns]
