"""``ortho-whiten fit=vectors.npy``: fit a whitening to the vectors of a file."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.embeddings.npy import open_vectors, output_path
from ortho_lightning.nn import Whitening


def fit_file(config: DictConfig) -> None:
    """Fit on the vectors in ``config.fit``, write the whitening to ``config.out``, and print a summary."""
    whitening = _fit(config)
    save_provenance(config, Path(config.run_dir))
    _, k = whitening.fitted_shape
    share = 100 * whitening.explained_variance_ratio.sum().item()
    print(
        f"{config.out}: {whitening.moments.count} vectors of {whitening.moments.d} numbers, rank {whitening.rank}, "
        f"effective rank {whitening.effective_rank:.1f}; {k} components keep {share:.2f}% of the variance"
    )


def _fit(config: DictConfig) -> Whitening:
    out = output_path(config, ".safetensors")
    vectors = open_vectors(config.fit)
    k = config.n_components
    if k is not None and k > vectors.shape[1]:
        raise ConfigurationError(f"n_components={k}: {config.fit} has vectors of {vectors.shape[1]} numbers")
    whitening = Whitening(k, float(config.beta), float(config.gamma))
    if vectors.dtype.itemsize == 8:
        whitening.double()
    try:
        whitening.fit(vectors, progress=config.progress)
    except ValueError as error:  # the arguments are valid: it is the data
        raise DataError(f"{config.fit}: {error}") from error
    whitening.save(out)
    return whitening
