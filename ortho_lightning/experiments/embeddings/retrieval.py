"""Retrieval with a faiss index at several widths: recall, speed and size."""

from __future__ import annotations

import importlib.util
import logging
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig

from ortho_lightning.data.stsb import STSEmbeddings
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.files import write_rows
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.vectors import moments_of
from ortho_lightning.tables import markdown_table

_NEIGHBOURS = 10
_REPEATS = 7

LEGEND = """\
Exact search by cosine among the distinct train and dev sentences for the distinct test sentences; the whitening is
fitted on the former. Recall@10: share of the 10 nearest by the raw vectors that are found. Queries a second: the whole
index, whitening included, median of 7 runs in turn."""


@dataclass(frozen=True)
class IndexQuality:
    """Measurements of one index.

    Attributes:
        encoder: its name.
        beta: of the whitening; None for raw vectors.
        gamma: of the whitening; None for raw vectors.
        n_components: width of the index.
        recall_at_10: share of the 10 nearest by the raw vectors that are found.
        queries_per_second: the whole index, whitening included.
        bytes_per_vector: size of a stored vector.
    """

    encoder: str
    beta: float | None
    gamma: float | None
    n_components: int
    recall_at_10: float
    queries_per_second: float
    bytes_per_vector: int


_Key = tuple[float | None, float | None, int]  # beta, gamma and k of an index


def require_faiss() -> None:
    """Raise if faiss is not installed.

    Raises:
        ConfigurationError: naming the extra to install.
    """
    if importlib.util.find_spec("faiss") is None:
        raise ConfigurationError("retrieval=true and compare=true need faiss: pip install 'ortho-lightning[faiss]'")


def measure_retrieval(config: DictConfig) -> str:
    """Measure every encoder; write ``retrieval.json``, ``.csv`` and ``.md`` in ``config.run_dir``; return the table."""
    data: STSEmbeddings = instantiate(config.data)
    exponents = dict.fromkeys([(0.0, 0.0), (float(config.beta), float(config.gamma))])
    found: list[IndexQuality] = []
    for encoder in data.encoders:
        stored = distinct(data, encoder, ("train", "dev"))
        queries = distinct(data, encoder, ("test",))
        found += _measure(encoder, stored, queries, list(exponents), list(config.retrieval_widths))
    table = _table(found)
    write_rows(Path(config.run_dir), "retrieval", [asdict(each) for each in found], f"{table}\n\n{LEGEND}\n")
    return table


def distinct(data: STSEmbeddings, encoder: str, splits: tuple[str, ...]) -> np.ndarray:
    """Return the distinct sentence vectors of some splits, ``(N, d)`` float32."""
    # not numpy.unique, which compares vectors number by number and takes half a minute
    vectors = {vector.tobytes(): vector for part in data.sentences(encoder, splits) for vector in part}
    return np.stack(list(vectors.values())).astype(np.float32)


def _measure(
    encoder: str, stored: np.ndarray, queries: np.ndarray, exponents: list[tuple[float, float]], widths: list[int]
) -> list[IndexQuality]:
    d = stored.shape[1]
    moments = moments_of(stored)
    raw = _index(None, d)
    raw.add(stored)
    indexes: dict[_Key, Any] = {(None, None, d): raw}
    for beta, gamma in exponents:
        for k in (min(width, d) for width in widths):
            indexes[beta, gamma, k] = _index(Whitening.from_moments(moments, k, beta, gamma), k)
            indexes[beta, gamma, k].add(stored)
    times: dict[_Key, list[float]] = {key: [] for key in indexes}
    found = {}
    for _ in range(_REPEATS):
        for key, index in indexes.items():
            began = time.perf_counter()
            found[key] = index.search(queries, _NEIGHBOURS)[1]
            times[key].append(time.perf_counter() - began)
    truth = found[None, None, d]
    return [
        IndexQuality(
            encoder=encoder,
            beta=beta,
            gamma=gamma,
            n_components=k,
            recall_at_10=recall(found[beta, gamma, k], truth),
            queries_per_second=len(queries) / statistics.median(times[beta, gamma, k]),
            bytes_per_vector=index.sa_code_size(),
        )
        for (beta, gamma, k), index in indexes.items()
    ]


def _index(whitening: Whitening | None, k: int) -> Any:
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it logs every build of the library that it tries to load
    import faiss

    from ortho_lightning.integrations.faiss import to_faiss

    index = faiss.IndexPreTransform(faiss.NormalizationTransform(k), faiss.IndexFlatIP(k))
    if whitening is not None:
        index.prepend_transform(to_faiss(whitening))
    return index


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean share of each row of ``truth`` that is in the row of ``found``, both ``(Q, n)`` indices."""
    return float(
        np.mean([len(np.intersect1d(here, there)) / truth.shape[1] for here, there in zip(found, truth, strict=True)])
    )


def _table(found: list[IndexQuality]) -> str:
    lines = [["encoder", "beta", "gamma", "k", "recall@10 (%)", "queries/s", "bytes a vector"]]
    for each in found:
        exponents = ["raw", ""] if each.beta is None else [f"{each.beta:g}", f"{each.gamma:g}"]
        lines.append(
            [
                *(each.encoder, *exponents, str(each.n_components), f"{100 * each.recall_at_10:.1f}"),
                *(f"{each.queries_per_second:.0f}", str(each.bytes_per_vector)),
            ]
        )
    return markdown_table(lines)
