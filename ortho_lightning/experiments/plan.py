"""Which runs a comparison is made of: arms times seeds, and each arm's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.cli import conf_dir
from ortho_lightning.experiments.overview import choice
from ortho_lightning.experiments.runs import Run

BASELINE = "none"
# What compare itself reads of its command line; the rest is every run's.
_OWN = {"seeds", "regularizers", "jobs", "costs", "target", "gather", "tune", "grid", "tuned", "regularizer", "seed"}


def plan(config: DictConfig, overrides: Sequence[str], folder: Path) -> list[Run]:
    """The runs in the order in which they are made: seeds outermost, so that one cut short has compared whole seeds.

    Args:
        config: the composed configuration, with ``seeds``, ``regularizers`` and the arms' ``tuned`` settings.
        overrides: those of the command line, which every run gets.
        folder: under which each run has its own.

    Raises:
        ConfigurationError: for arms that do not exist, or nothing to compare.
    """
    arms, seeds = check_arms(config)
    tuned = tuned_settings(config)
    return [
        make_run(arm, seed, folder / f"{arm}-seed{seed}", overrides, tuned.get(arm, ()))
        for seed in seeds
        for arm in arms
    ]


def check_arms(config: DictConfig) -> tuple[list[str], list[int]]:
    """The arms and seeds of a configuration, each once."""
    arms, seeds = list(dict.fromkeys(config.regularizers)), list(dict.fromkeys(config.seeds))
    if not seeds or not arms:
        raise ConfigurationError(f"seeds={seeds}, regularizers={arms}: name at least one of each")
    known = {path.stem for path in Path(conf_dir(), "regularizer").glob("*.yaml")}
    unknown = [arm for arm in arms if arm not in known]
    if unknown:
        raise ConfigurationError(f"regularizers={unknown}: there are {sorted(known)}")
    return arms, seeds


def make_run(arm: str, seed: int, folder: Path, overrides: Sequence[str], settings: Sequence[str]) -> Run:
    """A run of an arm. What the command line says counts more than the arm's own ``settings``."""
    given = {_key(text) for text in overrides}
    own = [text for text in settings if _key(text) not in given]
    shared = [
        text for text in overrides if _key(text).split(".")[0] not in _OWN or _key(text).startswith("regularizer.")
    ]
    return Run(arm, seed, folder, [*shared, *own, f"regularizer={arm}", f"seed={seed}"])


def tuned_settings(config: DictConfig) -> dict[str, list[str]]:
    """The overrides that ``compare tune=true`` chose for each arm, as conf/tuned holds them.

    They hold for the model that they were chosen with: none for another one.
    """
    found, model = OmegaConf.select(config, "tuned.arms"), OmegaConf.select(config, "tuned.model")
    if found is None or (model is not None and model != choice(config, "model")):
        return {}
    return {str(arm): list(settings) for arm, settings in found.items()}


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]
