"""The benchmark from the command line: cost of the penalties, quality of the sampled estimate, speed of the data."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import command
from ortho_lightning.experiments.common.provenance import save_provenance
from ortho_lightning.experiments.cost.measures import MEASURES
from ortho_lightning.files import write_text


def run(config: DictConfig) -> str:
    """Run the measure that ``config.measure`` names, write its results to ``config.run_dir``, and return them as text.

    Raises:
        ConfigurationError: for an unknown measure or value, before anything is measured.
    """
    if config.measure not in MEASURES:
        raise ConfigurationError(f"measure={config.measure!r}: there are {list(MEASURES)}")
    folder = Path(config.run_dir)
    save_provenance(config, folder)
    shown = MEASURES[config.measure](config, folder)
    write_text(folder / "report.md", shown + "\n")
    return shown


@command("benchmark")
def main(config: DictConfig) -> None:
    """Run ``ortho-benchmark``."""
    # every turn creates a Trainer, whose messages would hide the results
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    print("\n" + run(config))
    print(f"\nIn numbers in {config.run_dir}")
