"""What cutting dimensions costs and saves in a faiss index: recall, speed and size at several widths."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from ortho_lightning.data.stsb import STSEmbeddings
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.files import whole_file, write_csv, write_json
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import moments_of
from ortho_lightning.tables import markdown_table

_NEIGHBOURS = 10
_REPEATS = 7

LEGEND = """\
Exact search by cosine among the distinct train and dev sentences for the distinct test sentences; the whitening is
fitted on the former. Recall@10: share of the 10 nearest by the raw vectors that are found. Queries a second: the whole
index, whitening included, median of 7 runs in turn."""


def require() -> None:
    """Refuse to begin without faiss."""
    if importlib.util.find_spec("faiss") is None:
        raise ConfigurationError("retrieval=true needs faiss: pip install 'ortho-lightning[faiss]'")


def run(config: DictConfig) -> str:
    """Measure every encoder, and write ``retrieval.json``, ``.csv`` and ``.md`` under ``config.run_dir``."""
    data: STSEmbeddings = instantiate(config.data)
    settings = dict.fromkeys([(0.0, 0.0), (float(config.beta), float(config.gamma))])
    rows = []
    for encoder in data.encoders:
        stored = _distinct(data, encoder, ("train", "dev"))
        queries = _distinct(data, encoder, ("test",))
        rows += _measure(encoder, stored, queries, list(settings), list(config.retrieval_widths))
    folder = Path(config.run_dir)
    write_json(folder / "retrieval.json", rows)
    write_csv(folder / "retrieval.csv", rows)
    with whole_file(folder / "retrieval.md") as path:
        path.write_text(f"{_table(rows)}\n\n{LEGEND}\n")
    return _table(rows)


def _distinct(data: STSEmbeddings, encoder: str, splits: tuple[str, ...]) -> np.ndarray:
    # not numpy.unique, which compares rows number by number and takes half a minute
    rows = {row.tobytes(): row for part in data.sentences(encoder, splits) for row in part}
    return np.stack(list(rows.values())).astype(np.float32)


def _measure(
    encoder: str, stored: np.ndarray, queries: np.ndarray, settings: list[tuple[float, float]], widths: list[int]
) -> list[dict[str, Any]]:
    d = stored.shape[1]
    moments = moments_of(stored)
    raw = _index(None, d)
    raw.add(stored)
    indexes: dict[tuple[Any, ...], Any] = {(None, None, d): raw}
    for beta, gamma in settings:
        for k in (min(width, d) for width in widths):
            indexes[beta, gamma, k] = _index(Whitening.from_moments(moments, k, beta, gamma), k)
            indexes[beta, gamma, k].add(stored)
    times: dict[tuple[Any, ...], list[float]] = {key: [] for key in indexes}
    found = {}
    for _ in range(_REPEATS):
        for key, index in indexes.items():
            began = time.perf_counter()
            found[key] = index.search(queries, _NEIGHBOURS)[1]
            times[key].append(time.perf_counter() - began)
    truth = found[None, None, d]
    return [
        {
            "encoder": encoder,
            "beta": beta,
            "gamma": gamma,
            "n_components": k,
            "recall_at_10": _recall(found[beta, gamma, k], truth),
            "queries_per_second": len(queries) / statistics.median(times[beta, gamma, k]),
            "bytes_per_vector": index.sa_code_size(),
        }
        for (beta, gamma, k), index in indexes.items()
    ]


def _index(whitening: Whitening | None, k: int) -> Any:
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it reports each build of itself that it looks for
    import faiss

    from ortho_lightning.integrations.faiss import to_faiss

    index = faiss.IndexPreTransform(faiss.NormalizationTransform(k), faiss.IndexFlatIP(k))
    if whitening is not None:
        index.prepend_transform(to_faiss(whitening))
    return index


def _recall(found: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([len(np.intersect1d(here, there)) / truth.shape[1] for here, there in zip(found, truth, strict=True)])
    )


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [["encoder", "beta", "gamma", "k", "recall@10 (%)", "queries/s", "bytes a vector"]]
    for row in rows:
        setting = ["raw", ""] if row["beta"] is None else [f"{row['beta']:g}", f"{row['gamma']:g}"]
        lines.append(
            [
                *(row["encoder"], *setting, str(row["n_components"]), f"{100 * row['recall_at_10']:.1f}"),
                *(f"{row['queries_per_second']:.0f}", str(row["bytes_per_vector"])),
            ]
        )
    return markdown_table(lines)
