"""``ortho-whiten fit=VECTORS``: fit a whitening to the vectors of a file, or of all files in a folder."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from ortho_lightning import functional as OF
from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.checkpoint import FitCheckpoint
from ortho_lightning.experiments.embeddings.options import accumulation, hyperparameters, output_path, writing
from ortho_lightning.experiments.embeddings.processes import Processes, joined_processes
from ortho_lightning.experiments.embeddings.reading import moments_of_shard, open_weights
from ortho_lightning.experiments.embeddings.vector_files import Dataset, open_dataset
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.hyperparameters import Hyperparameters
from ortho_lightning.nn.joining import joined_moments


def fit_files(config: DictConfig, given: Collection[str] = ()) -> None:
    """Fit on the vectors in ``config.fit``, write the whitening to ``config.out``, and print a summary.

    Under ``torchrun`` every process reads its share of the files.

    Args:
        config: of ``ortho-whiten``.
        given: names of the options that the user gave.
    """
    out = output_path(config, ".safetensors")
    chosen = hyperparameters(config)
    accumulation(config)  # raises for another value
    dataset = open_dataset(config.fit, config.key)
    if chosen.n_components is not None and chosen.n_components > dataset.d:
        raise ConfigurationError(f"n_components={chosen.n_components}: {config.fit} has vectors of {dataset.d} numbers")
    weights = _weights(config, dataset)
    with joined_processes() as processes:
        if config.keep is not None:
            from ortho_lightning.experiments.embeddings.choose import choose_width

            moments, chosen = choose_width(config, dataset, weights, processes, given)
            checkpoint = None
        else:
            checkpoint = FitCheckpoint(out, dataset, f"{config.accumulation} {config.key} {weights}", processes)
            moments = joined_moments(_moments(config, dataset, weights, processes, checkpoint))
        if processes.is_first:
            whitening = fitted(moments, chosen, dataset.is_double, config.fit)
            with writing(out):
                whitening.save(out)
        processes.wait()
        if processes.is_first:
            if checkpoint is not None:
                checkpoint.remove()
            print(summary(config.out, whitening))


def _weights(config: DictConfig, dataset: Dataset) -> Path | None:
    if config.weights is None:
        return None
    path = Path(config.weights).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if dataset.is_folder and not path.is_dir():
        raise ConfigurationError(
            f"weights={config.weights}: {config.fit} is a folder; give a folder with a .npy file for each of its files"
        )
    for shard in dataset.shards:
        open_weights(shard, path)  # raises before any work
    return path


def _moments(
    config: DictConfig, dataset: Dataset, weights: Path | None, processes: Processes, checkpoint: FitCheckpoint
) -> OF.Moments:
    shards = processes.share(dataset.shards)
    total = sum(shard.count for shard in shards)
    with tqdm(total=total, unit=" vectors", disable=not config.progress or not processes.is_first) as bar:
        for shard in shards:
            if shard.path.name in checkpoint.done:
                bar.update(shard.count)
                continue
            moments = moments_of_shard(shard, weights, accumulation(config), bar=bar)
            if dataset.is_folder:
                with writing(Path(config.out)):
                    checkpoint.add(shard, moments)
            else:
                checkpoint.moments = moments
    return OF.Moments.empty(dataset.d) if checkpoint.moments is None else checkpoint.moments


def fitted(moments: OF.Moments, chosen: Hyperparameters, is_double: bool, source: str) -> Whitening:
    """Return the whitening of the vectors in ``source``, in float64 if they are.

    Raises:
        DataError: for vectors that cannot be whitened, naming the source.
    """
    dtype = torch.float64 if is_double else torch.float32
    try:
        whitening = Whitening.from_moments(
            moments,
            chosen.n_components,
            chosen.beta,
            chosen.gamma,
            dtype,
            chosen.shrinkage,
            chosen.eps,
        )
        return whitening.refit()  # which warns of components without variance
    except ValueError as error:  # the arguments are valid: it is the data
        raise DataError(f"{source}: {error}") from error


def summary(out: str, whitening: Whitening) -> str:
    """Return a line about a fitted whitening."""
    _, k = whitening.fitted_shape
    share = 100 * whitening.explained_variance_ratio.sum().item()
    shrunk = ""
    if isinstance(whitening.shrinkage, str):
        shrunk = f", shrinkage {whitening.hyperparameters.resolved_shrinkage(whitening.moments):.4g}"
    return (
        f"{out}: {whitening.moments.count} vectors of {whitening.moments.d} numbers, rank {whitening.rank}, "
        f"effective rank {whitening.effective_rank:.1f}{shrunk}; {k} components keep {share:.2f}% of the variance"
    )
