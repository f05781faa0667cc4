"""Whitening from the command line: the STS benchmark's table, vectors in files, retrieval, and a benchmark of speed."""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir, plain_errors
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.embeddings import sts, vectors
from ortho_lightning.nn import Whitening


def run(config: DictConfig) -> None:
    """Do what ``config`` asks for: ``fit``, ``apply``, ``benchmark``, or else the experiment."""
    asked = [name for name in ("fit", "apply", "benchmark") if config[name]]
    if len(asked) > 1:
        raise ConfigurationError(f"{' and '.join(f'{name}={config[name]}' for name in asked)}: ask for one at a time")
    if config.to is not None and config.apply is None:
        raise ConfigurationError(f"to={config.to}: name the whitening too, apply=whitening.safetensors")
    Whitening(config.n_components, config.beta, config.gamma)  # refuses what is outside its range before any work
    {"fit": _fit, "apply": _apply, "benchmark": _benchmark}.get(asked[0] if asked else "", _experiment)(config)


def _fit(config: DictConfig) -> None:
    whitening = vectors.fit(config)
    save_provenance(config, Path(config.run_dir))
    k = whitening.projection.shape[1]
    share = 100 * whitening.explained_variance_ratio.sum().item()
    print(
        f"{config.out}: {whitening.moments.count} vectors of {whitening.moments.d} numbers, rank {whitening.rank}, "
        f"effective rank {whitening.effective_rank:.1f}; {k} components keep {share:.2f}% of the variance"
    )


def _apply(config: DictConfig) -> None:
    rows, k = vectors.apply(config)
    print(f"{config.out}: {rows} vectors of {k} numbers")


def _benchmark(config: DictConfig) -> None:
    from ortho_lightning.experiments.embeddings import speed

    save_provenance(config, Path(config.run_dir))
    print("\n" + speed.run(config))
    print(f"\nIn numbers in {config.run_dir}")


def _experiment(config: DictConfig) -> None:
    save_provenance(config, Path(config.run_dir))
    if config.retrieval:
        from ortho_lightning.experiments.embeddings import retrieval

        retrieval.require()
    results = sts.run(config)
    print("\n" + sts.table(results["rows"]))
    print("\n" + sts.LEGEND)
    if config.retrieval:
        print("\n" + retrieval.run(config))
        print("\n" + retrieval.LEGEND)
    print(f"\nPictures, whitenings and everything in numbers in {config.run_dir}")


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="whiten")
@plain_errors
def main(config: DictConfig) -> None:
    run(config)


if __name__ == "__main__":
    main()
