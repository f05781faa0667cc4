"""Choosing a whitening without labels: ``ortho-whiten fit=VECTORS keep=0.95`` and ``search=VECTORS``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.embeddings.options import accumulation, hyperparameters, writing
from ortho_lightning.experiments.embeddings.processes import Processes
from ortho_lightning.experiments.embeddings.reading import Sample, sampled_moments
from ortho_lightning.experiments.embeddings.vector_files import Dataset, open_dataset
from ortho_lightning.files import write_csv
from ortho_lightning.nn.hyperparameters import Hyperparameters
from ortho_lightning.search import NeighbourSearch, RecallPoint, fewest_components, search_neighbours
from ortho_lightning.search.neighbours import check_keep
from ortho_lightning.tables import markdown_table

_BYTES = 4  # of a number in float32
_NEIGHBOURS = 10


def choose_width(
    config: DictConfig, dataset: Dataset, weights: Path | None, processes: Processes, given: Collection[str]
) -> tuple[OF.Moments, Hyperparameters]:
    """Return the moments, and the hyper-parameters with the fewest components of recall ``config.keep``.

    beta = gamma = 0 unless given. Prints a table, and writes it and a figure beside ``config.out``.
    """
    check_keep(config.keep)
    if config.n_components is not None and "n_components" in given:
        raise ConfigurationError(f"keep= chooses n_components; leave n_components={config.n_components} out")
    if processes.count > 1:
        raise ConfigurationError(
            f"keep={config.keep} under torchrun: choose in one process, on a part of the vectors if they are many, "
            "then give n_components"
        )
    wanted = {"whitening", "beta", "gamma", "whitening.beta", "whitening.gamma"} & set(given)
    beta, gamma = (float(config.beta), float(config.gamma)) if wanted else (0.0, 0.0)
    if config.shrinkage or config.eps:
        raise ConfigurationError("keep= measures whitenings without shrinkage and eps; leave them out")
    sample = _sample(config, dataset)
    moments = _read(config, dataset, sample, weights)
    queries, base = sample.vectors("queries"), sample.vectors("base")
    point, found = fewest_components(base, queries, config.keep, beta, gamma, moments, _NEIGHBOURS, config.progress)
    print(f"{_table(found, point)}\n\n{_legend(found)}\n")
    stem = Path(config.out).expanduser().with_suffix("")
    with writing(stem):
        _write(found, point, stem.with_name(f"{stem.name}-recall"), f"{dataset.path.name}: recall over k")
    print(
        f"k = {point.n_components} keeps {100 * point.recall:.1f}% of the {_NEIGHBOURS} nearest neighbours, in "
        f"{_BYTES * point.n_components} bytes per vector instead of {_BYTES * dataset.d}"
    )
    chosen = replace(hyperparameters(config), n_components=point.n_components, beta=beta, gamma=gamma)
    return moments, chosen


def search_files(config: DictConfig) -> None:
    """Print the recall of a grid of whitenings of the vectors in ``config.search``; write ``config.out`` if given."""
    if config.keep is not None:
        check_keep(config.keep)
    dataset = open_dataset(config.search, config.key)
    sample = _sample(config, dataset)
    moments = _read(config, dataset, sample, None)
    found = search_neighbours(
        sample.vectors("base"),
        sample.vectors("queries"),
        list(config.neighbour_grid.betas),
        list(config.neighbour_grid.gammas),
        None if config.neighbour_grid.components is None else list(config.neighbour_grid.components),
        moments,
        _NEIGHBOURS,
        config.progress,
    )
    point = None if config.keep is None else found.smallest(config.keep)
    print(f"{_grid_table(found)}\n\n{_legend(found)}")
    if point is not None:
        print(
            f"\nThe fewest components of recall {config.keep}: beta={point.beta:g} gamma={point.gamma:g} "
            f"n_components={point.n_components}, recall {point.recall:.4f}"
        )
    if config.out is not None:
        stem = Path(config.out).expanduser() / "recall"
        with writing(stem):
            _write(found, point, stem, f"{dataset.path.name}: recall over k")
        print(f"\nAll numbers and a figure in {config.out}")


def _sample(config: DictConfig, dataset: Dataset) -> Sample:
    queries = min(int(config.queries), dataset.count // 10)
    base = min(int(config.sample), dataset.count - queries)
    if queries < 1 or base < 2 * _NEIGHBOURS:
        raise ConfigurationError(
            f"queries={config.queries} sample={config.sample}: {dataset.path} has {dataset.count} vectors, and one in "
            f"ten at most is held out; a choice needs 1 query and {2 * _NEIGHBOURS} others or more"
        )
    return Sample(dataset.count, queries, base, int(config.seed))


def _read(config: DictConfig, dataset: Dataset, sample: Sample, weights: Path | None) -> OF.Moments:
    with tqdm(total=dataset.count, unit=" vectors", disable=not config.progress) as bar:
        return sampled_moments(dataset, sample, weights, accumulation(config), bar)


def _legend(found: NeighbourSearch) -> str:
    return (
        f"Recall@{found.neighbours}: share of the {found.neighbours} nearest raw vectors (cosine) that are found, of "
        f"{found.queries} held-out queries among {found.base} vectors. It is lower among more; sample= sets how many."
    )


def _table(found: NeighbourSearch, point: RecallPoint) -> str:
    lines = [["k", "bytes per vector", "of the raw size", f"recall@{found.neighbours} (%)", ""]]
    d = found.moments.d
    for each in found.table():
        even = each.n_components == point.n_components or each.n_components % max(d // 16, 1) == 0
        if even:
            mark = "chosen" if each.n_components == point.n_components else ""
            size, share = _BYTES * each.n_components, each.n_components / d
            lines.append([str(each.n_components), str(size), f"{100 * share:.0f}%", f"{100 * each.recall:.1f}", mark])
    return markdown_table(lines)


def _grid_table(found: NeighbourSearch) -> str:
    ks = [k for k in found.components if k % max(found.moments.d // 8, 1) == 0] or list(found.components)[-8:]
    lines = [["beta", "gamma", *(f"k = {k}" for k in ks)]]
    for i, beta in enumerate(found.betas):
        for j, gamma in enumerate(found.gammas):
            values = [100 * float(found.recall[i, j, found.components.index(k)]) for k in ks]
            lines.append([f"{beta:g}", f"{gamma:g}", *(f"{value:.1f}" for value in values)])
    return markdown_table(lines)


def _write(found: NeighbourSearch, point: RecallPoint | None, stem: Path, title: str) -> None:
    rows = [{**asdict(each), "bytes_per_vector": _BYTES * each.n_components} for each in found.table()]
    write_csv(stem.with_name(f"{stem.name}.csv"), rows)
    found.save_picture(stem.with_name(f"{stem.name}.png"), point, title)
