"""``compare=true``: whitening and other common methods, at equal bytes per vector."""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from ortho_lightning.data.stsb import Pairs, STSEmbeddings
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.embeddings.methods import Method, methods_at, raw_method
from ortho_lightning.experiments.embeddings.retrieval import distinct, recall, require_faiss
from ortho_lightning.files import write_rows
from ortho_lightning.functional import spearman
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import moments_of
from ortho_lightning.search import search
from ortho_lightning.tables import markdown_table

_NEIGHBOURS = 10
_REPEATS = 5

LEGEND = """\
Fitted on the distinct train and dev sentences. Spearman x 100: cosine and score of the test pairs, one vector of a pair
decoded from its stored bytes, the other as a query. Recall@10: share of the 10 nearest raw vectors (cosine) that is
found among the train and dev sentences, for the distinct test sentences. Queries a second: projection and exact search,
median of 5 runs in turn. With labels: beta and gamma chosen on the dev pairs."""


@dataclass(frozen=True)
class MethodQuality:
    """Measurements of one method.

    Attributes:
        encoder: its name.
        bytes_per_vector: of a stored vector.
        method: its name.
        uses_labels: whether scored pairs chose anything.
        spearman: times 100, on the test pairs.
        recall_at_10: share of the 10 nearest raw vectors that is found.
        queries_per_second: projection and search.
    """

    encoder: str
    bytes_per_vector: int
    method: str
    uses_labels: bool
    spearman: float
    recall_at_10: float
    queries_per_second: float


def require_all() -> None:
    """Raise if faiss or scikit-learn is not installed.

    Raises:
        ConfigurationError: naming the extra to install.
    """
    require_faiss()
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "compare=true needs scikit-learn: pip install 'ortho-lightning[scikit-learn]'"
        ) from None


def compare_methods(config: DictConfig) -> str:
    """Measure every method; write ``compare.json``, ``.csv`` and ``.md`` in ``config.run_dir``; return the table."""
    data: STSEmbeddings = instantiate(config.data)
    found: list[MethodQuality] = []
    for encoder in data.encoders:
        found += _measure(config, data, encoder)
    table = _table(found)
    write_rows(Path(config.run_dir), "compare", [asdict(each) for each in found], f"{table}\n\n{LEGEND}\n")
    return table


def _measure(config: DictConfig, data: STSEmbeddings, encoder: str) -> list[MethodQuality]:
    stored, queries = distinct(data, encoder, ("train", "dev")), distinct(data, encoder, ("test",))
    splits, moments = data.encoders[encoder], moments_of(stored)

    def tuned(k: int) -> Whitening:
        dev = splits["dev"]
        grid = config.grid
        return search(dev.a, dev.b, dev.score, list(grid.betas), list(grid.gammas), [k], moments).whitening()

    methods = [raw_method(stored.shape[1])]
    for size in config.compare_bytes:
        methods += methods_at(int(size), stored, moments, tuned)
    indexes = [_index(method, stored) for method in methods]
    times: list[list[float]] = [[] for _ in methods]
    neighbours: list[np.ndarray] = [np.empty(0)] * len(methods)
    for _ in range(_REPEATS):
        for at, (method, index) in enumerate(zip(methods, indexes, strict=True)):
            began = time.perf_counter()
            neighbours[at] = index.search(_projected(method, queries), _NEIGHBOURS)[1]
            times[at].append(time.perf_counter() - began)
    return [
        MethodQuality(
            encoder=encoder,
            bytes_per_vector=index.sa_code_size(),
            method=method.name,
            uses_labels=method.uses_labels,
            spearman=100 * _correlation(method, index, splits["test"]),
            recall_at_10=recall(neighbours[at], neighbours[0]),
            queries_per_second=len(queries) / statistics.median(times[at]),
        )
        for at, (method, index) in enumerate(zip(methods, indexes, strict=True))
    ]


def _index(method: Method, stored: np.ndarray) -> Any:
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every build of the library that it tries to load
    import faiss

    index = faiss.index_factory(method.k, method.code, faiss.METRIC_INNER_PRODUCT)
    vectors = _projected(method, stored)
    index.train(vectors)
    index.add(vectors)
    return index


def _projected(method: Method, vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, for cosines."""
    projected = torch.from_numpy(np.ascontiguousarray(method.project(vectors.astype(np.float32)), np.float32))
    return torch.nn.functional.normalize(projected, dim=1).numpy()


def _correlation(method: Method, index: Any, pairs: Pairs) -> float:
    decoded = torch.from_numpy(index.sa_decode(index.sa_encode(_projected(method, pairs.a)))).double()
    asked = torch.from_numpy(_projected(method, pairs.b)).double()
    cosines = torch.nn.functional.cosine_similarity(decoded, asked)
    return float(spearman(cosines, torch.as_tensor(pairs.score).double()))


def _table(found: list[MethodQuality]) -> str:
    lines = [["encoder", "bytes", "method", "Spearman x 100", "recall@10 (%)", "queries/s"]]
    for each in found:
        values = [f"{each.spearman:.2f}", f"{100 * each.recall_at_10:.1f}", f"{each.queries_per_second:,.0f}"]
        lines.append([each.encoder, str(each.bytes_per_vector), each.method, *values])
    return markdown_table(lines)
