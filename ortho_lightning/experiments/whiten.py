"""Whitening from the command line: the STS experiment, vectors in files, retrieval and a benchmark of speed."""

from __future__ import annotations

from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir, plain_errors
from ortho_lightning.experiments.embeddings.apply import apply_to_file
from ortho_lightning.experiments.embeddings.fit import fit_file
from ortho_lightning.experiments.embeddings.speed import benchmark_fit
from ortho_lightning.experiments.embeddings.sts import run_experiment
from ortho_lightning.nn.hyperparameters import Hyperparameters

COMMANDS: dict[str, Callable[[DictConfig], None]] = {
    "fit": fit_file,
    "apply": apply_to_file,
    "benchmark": benchmark_fit,
}


def run(config: DictConfig) -> None:
    """Run the command whose flag is given (``fit=``, ``apply=`` or ``benchmark=``), or else the STS experiment.

    Raises:
        ConfigurationError: for several commands at once, or a value outside its range, before any work.
    """
    asked = [name for name in COMMANDS if config[name]]
    if len(asked) > 1:
        raise ConfigurationError(f"{' and '.join(f'{name}={config[name]}' for name in asked)}: ask for one at a time")
    if config.to is not None and config.apply is None:
        raise ConfigurationError(f"to={config.to}: name the whitening too, apply=whitening.safetensors")
    Hyperparameters(config.n_components, config.beta, config.gamma)  # raises for a value outside its range
    command = COMMANDS[asked[0]] if asked else run_experiment
    command(config)


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="whiten")
@plain_errors
def main(config: DictConfig) -> None:
    """Run ``ortho-whiten``."""
    run(config)


if __name__ == "__main__":
    main()
