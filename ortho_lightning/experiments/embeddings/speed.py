"""``ortho-whiten benchmark=true``: time and memory of a fit, a bare matrix product and IncrementalPCA."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tqdm import tqdm

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.cost.memory import ProcessMemory
from ortho_lightning.files import whole_file, write_json
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import parts
from ortho_lightning.tables import markdown_table


@dataclass(frozen=True)
class FitCost:
    """Cost of one way to process the vectors.

    Attributes:
        what: its name.
        vectors: how many vectors.
        seconds: median over the runs.
        ratio: of the seconds to those of the first.
        peak_mib: largest growth of the process; None where it cannot be measured.
    """

    what: str
    vectors: int
    seconds: float
    ratio: float
    peak_mib: float | None


def benchmark_fit(config: DictConfig) -> None:
    """Measure on random vectors in a temporary file under ``config.run_dir``; print the table and write it there."""
    save_provenance(config, Path(config.run_dir))
    costs = _measure(config)
    d = config.benchmark_columns
    rows = [asdict(cost) for cost in costs]
    write_json(
        Path(config.run_dir) / "benchmark.json", {"columns": d, "threads": torch.get_num_threads(), "rows": rows}
    )
    print(f"\n{_table(costs, d)}\n\nIn numbers in {config.run_dir}")


def _measure(config: DictConfig) -> list[FitCost]:
    count, d, pca_count = config.benchmark_rows, config.benchmark_columns, config.benchmark_pca_rows
    if min(count, d, config.benchmark_repeats) < 1 or not 0 <= pca_count <= count:
        raise ConfigurationError(
            f"benchmark_rows={count}, benchmark_columns={d}, benchmark_repeats={config.benchmark_repeats}, "
            f"benchmark_pca_rows={pca_count}: the first three must be 1 or more, the last between 0 and the rows"
        )
    with _vectors_on_disk(Path(config.run_dir) / "benchmark.npy", count, d, config.progress) as path:
        vectors = np.load(path, mmap_mode="r")
        subjects: dict[str, Callable[[], Any]] = {
            "X^T X, float32 (torch)": lambda: _product(vectors),
            "X^T X, float32, one half only (numpy)": lambda: _symmetric_product(vectors),
            "Whitening.fit": lambda: Whitening().fit(vectors, progress=config.progress),
            "Whitening.fit, float32": lambda: Whitening().fit(vectors, config.progress, accumulation=torch.float32),
        }
        results = _time(subjects, count, config.benchmark_repeats)
        if pca_count:
            few = vectors[:pca_count]
            fits = {"Whitening.fit": lambda: Whitening().fit(few), "IncrementalPCA.fit": lambda: _incremental_pca(few)}
            results += _time(fits, pca_count, 1)
    return results


def _time(subjects: dict[str, Callable[[], Any]], count: int, repeats: int) -> list[FitCost]:
    # runs in turn, so that other work on the machine affects all alike
    times: dict[str, list[float]] = {name: [] for name in subjects}
    memory: dict[str, float | None] = dict.fromkeys(subjects)
    for _ in range(repeats):
        for name, subject in subjects.items():
            with ProcessMemory() as peak:
                began = time.perf_counter()
                subject()
                times[name].append(time.perf_counter() - began)
            if peak.mib is not None:
                memory[name] = max(peak.mib, memory[name] or 0.0)
    reference = statistics.median(next(iter(times.values())))
    return [
        FitCost(name, count, statistics.median(taken), statistics.median(taken) / reference, memory[name])
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
        here = part.numpy()
        total += here.T @ here  # numpy computes one half of a product with its own transpose
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
def _vectors_on_disk(path: Path, count: int, d: int, progress: bool) -> Iterator[Path]:
    try:
        with whole_file(path) as temporary:
            vectors = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=(count, d))
            random = np.random.default_rng(0)
            for start in tqdm(range(0, count, 16384), desc="writing vectors", disable=not progress):
                stop = min(start + 16384, count)
                vectors[start:stop] = random.standard_normal((stop - start, d), dtype=np.float32) + 1
            vectors.flush()
            del vectors
        yield path
    finally:
        path.unlink(missing_ok=True)


def _table(costs: list[FitCost], d: int) -> str:
    lines = [["what", f"vectors of {d}", "seconds", "times the first", "peak memory (MiB)"]]
    for cost in costs:
        peak = "-" if cost.peak_mib is None else f"{cost.peak_mib:.0f}"
        lines.append([cost.what, f"{cost.vectors:,}", f"{cost.seconds:.2f}", f"{cost.ratio:.2f}", peak])
    return markdown_table(lines)
