"""How long a fit takes, beside the bare matrix product and scikit-learn's IncrementalPCA, and how much memory."""

from __future__ import annotations

import contextlib
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.embeddings.vectors import open_vectors
from ortho_lightning.files import whole_file, write_json
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import parts
from ortho_lightning.tables import markdown_table


def run(config: DictConfig) -> str:
    """Time on random vectors in a file under ``config.run_dir``, which goes away afterwards; the table back."""
    rows, d, pca_rows = config.benchmark_rows, config.benchmark_columns, config.benchmark_pca_rows
    if min(rows, d, config.benchmark_repeats) < 1 or not 0 <= pca_rows <= rows:
        raise ConfigurationError(
            f"benchmark_rows={rows}, benchmark_columns={d}, benchmark_repeats={config.benchmark_repeats}, "
            f"benchmark_pca_rows={pca_rows}: the first three must be 1 or more, the last between 0 and the rows"
        )
    folder = Path(config.run_dir)
    with _vectors_on_disk(folder / "benchmark.npy", rows, d, config.progress) as path:
        vectors = open_vectors(str(path))
        subjects: dict[str, Callable[[], Any]] = {
            "X^T X, float32 (torch)": lambda: _product(vectors),
            "X^T X, float32, one half only (numpy)": lambda: _symmetric_product(vectors),
            "Whitening.fit": lambda: Whitening().fit(vectors, progress=config.progress),
        }
        results = _time(subjects, rows, config.benchmark_repeats)
        if pca_rows:
            few = vectors[:pca_rows]
            fits = {"Whitening.fit": lambda: Whitening().fit(few), "IncrementalPCA.fit": lambda: _incremental_pca(few)}
            results += _time(fits, pca_rows, 1)
    write_json(folder / "benchmark.json", {"columns": d, "threads": torch.get_num_threads(), "rows": results})
    return _table(results, d)


def _time(subjects: dict[str, Callable[[], Any]], rows: int, repeats: int) -> list[dict[str, Any]]:
    """Medians of runs in turn, so that other work on the machine meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in subjects}
    memory: dict[str, float | None] = dict.fromkeys(subjects)
    for _ in range(repeats):
        for name, subject in subjects.items():
            with PeakMemory() as peak:
                began = time.perf_counter()
                subject()
                times[name].append(time.perf_counter() - began)
            if peak.mib is not None:
                memory[name] = max(peak.mib, memory[name] or 0.0)
    reference = statistics.median(next(iter(times.values())))
    return [
        {
            "what": name,
            "vectors": rows,
            "seconds": statistics.median(taken),
            "ratio": statistics.median(taken) / reference,
            "peak_mib": memory[name],
        }
        for name, taken in times.items()
    ]


def _product(vectors: np.ndarray) -> torch.Tensor:
    total = torch.zeros(vectors.shape[1], vectors.shape[1])
    for part in parts(vectors):
        total.addmm_(part.mT, part)
    return total


def _symmetric_product(vectors: np.ndarray) -> np.ndarray:
    total = np.zeros((vectors.shape[1], vectors.shape[1]), dtype=np.float32)
    for part in parts(vectors):
        rows = part.numpy()
        total += rows.T @ rows  # numpy computes one half of a product with its own transpose
    return total


def _incremental_pca(vectors: np.ndarray) -> Any:
    try:
        from sklearn.decomposition import IncrementalPCA
    except ImportError:
        raise ConfigurationError(
            "benchmark_pca_rows needs scikit-learn: pip install 'ortho-lightning[scikit-learn]', or "
            "benchmark_pca_rows=0"
        ) from None
    return IncrementalPCA().fit(vectors)


@contextlib.contextmanager
def _vectors_on_disk(path: Path, rows: int, d: int, progress: bool) -> Iterator[Path]:
    try:
        with whole_file(path) as temporary:
            vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(rows, d))
            random = np.random.default_rng(0)
            for start in tqdm(range(0, rows, 16384), desc="writing vectors", disable=not progress):
                stop = min(start + 16384, rows)
                vectors[start:stop] = random.standard_normal((stop - start, d), dtype=np.float32) + 1
            vectors.flush()
            del vectors
        yield path
    finally:
        path.unlink(missing_ok=True)


class PeakMemory:
    """Largest growth of the process's own memory, in MiB, looked at every hundredth of a second; None outside Linux.

    Pages of mapped files are not counted: they are the system's, which takes them back when it wants.
    """

    def __enter__(self) -> PeakMemory:
        self._before = self._own()
        self._peak = self._before
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._watch.join()

    @property
    def mib(self) -> float | None:
        """The growth so far."""
        return None if self._peak is None or self._before is None else (self._peak - self._before) / 1024

    def _look(self) -> None:
        while self._peak is not None and not self._done.wait(0.01):
            self._peak = max(self._peak, self._own() or 0)

    @staticmethod
    def _own() -> int | None:
        status = Path("/proc/self/status")
        if os.name != "posix" or not status.exists():
            return None
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) if "RssAnon" in fields else None


def _table(results: list[dict[str, Any]], d: int) -> str:
    lines = [["what", f"vectors of {d}", "seconds", "times the first", "peak memory (MiB)"]]
    for row in results:
        peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
        lines.append([row["what"], f"{row['vectors']:,}", f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", peak])
    return markdown_table(lines)
