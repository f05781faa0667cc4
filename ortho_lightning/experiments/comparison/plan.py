"""The runs of a comparison: arms times seeds, and each arm's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.experiments.common.option_types import is_list_of
from ortho_lightning.experiments.comparison.available import known_arms
from ortho_lightning.experiments.comparison.grid import arm_grid
from ortho_lightning.experiments.comparison.runs import Run
from ortho_lightning.experiments.training.overview import choice
from ortho_lightning.weights import GradientShare

# What compare itself reads from its command line; every run gets the rest.
_OWN = {
    "seeds",
    "regularizers",
    "baseline",
    "jobs",
    "costs",
    "target",
    "gather",
    "by",
    "factors",
    "tune",
    "grid",
    "extend",
    "share",
    "tuned",
    "regularizer",
    "seed",
}


def plan(config: DictConfig, overrides: Sequence[str], folder: Path) -> list[Run]:
    """Return the runs in the order in which they are made.

    Seeds are outermost, so that an interrupted comparison has compared whole seeds.

    Args:
        config: the composed configuration: ``seeds``, ``regularizers``, ``share``, and the arms' ``tuned`` settings.
        overrides: those of the command line, which every run gets.
        folder: under which each run has its own.

    Raises:
        ConfigurationError: for arms that do not exist, or nothing to compare.
    """
    arms, seeds = check_arms(config)
    tuned = tuned_settings(config)
    if config.share is not None:
        tuned = {arm: [text for text in own if not _sets_weight(text)] for arm, own in tuned.items()}
    given = {arm: [*overrides, *_shared_weight(config.share, arm)] for arm in arms}
    return [
        make_run(arm, seed, folder / f"{arm}-seed{seed}", given[arm], tuned.get(arm, ()))
        for seed in seeds
        for arm in arms
    ]


def check_overrides(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject overrides that a comparison would ignore.

    Raises:
        ConfigurationError: naming what to give instead.
    """
    for text in overrides:
        key = _key(text)
        if key in ("seed", "regularizer"):
            raise ConfigurationError(f"{text}: a comparison takes lists, seeds=[0,1,2] and regularizers=[none,lsh]")
        if key == "tuned" and not text.startswith("~") and OmegaConf.select(config, "tuned") is None:
            known = sorted(path.stem for path in Path(conf_dir(), "tuned").glob("*.yaml"))
            raise ConfigurationError(f"{text}: there are {known}")
        if config.tune and any(key in arm_grid(config, arm) for arm in config.regularizers):
            raise ConfigurationError(f"{text}: tune=true tries grid's values of it; leave it out, or change the grid")


def check_share(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject a share of the gradient for all arms that cannot be, or other weights beside it.

    Raises:
        ConfigurationError: naming the value.
    """
    if config.share is None:
        return
    GradientShare(config.share)
    others = [text for text in overrides if _sets_weight(text)]
    if others or config.tune:
        raise ConfigurationError(
            f"share={config.share} gives every penalty its weight, and so does {others[0] if others else 'tune=true'}: "
            "one or the other"
        )


def check_arms(config: DictConfig) -> tuple[list[str], list[int]]:
    """Return the arms and seeds of a configuration, each once.

    Raises:
        ConfigurationError: for arms that do not exist, or nothing to compare.
    """
    for name, kind, example in (("seeds", int, "seeds=[0,1,2]"), ("regularizers", str, "regularizers=[none,lsh]")):
        values = config[name]
        if not is_list_of(kind, values):
            also = ", or all" if name == "regularizers" else ""
            raise ConfigurationError(
                f"{name}={values}: must be a list, as in {example}{also}; with -m, {name}=[..],[..]"
            )
    arms, seeds = list(dict.fromkeys(config.regularizers)), list(dict.fromkeys(config.seeds))
    if not seeds or not arms:
        raise ConfigurationError(f"seeds={seeds}, regularizers={arms}: name at least one of each")
    known = known_arms()
    unknown = [arm for arm in arms if arm not in known]
    if unknown:
        raise ConfigurationError(f"regularizers={unknown}: there are {sorted(known)}")
    return arms, seeds


def make_run(arm: str, seed: int, folder: Path, overrides: Sequence[str], settings: Sequence[str]) -> Run:
    """Return a run of an arm; the command line overrides the arm's own ``settings``."""
    given = {_key(text) for text in overrides}
    own = [text for text in settings if _key(text) not in given]
    shared = [
        text for text in overrides if _key(text).split(".")[0] not in _OWN or _key(text).startswith("regularizer.")
    ]
    experiment = str(HydraConfig.get().runtime.choices["experiment"]) if HydraConfig.initialized() else None
    return Run(arm, seed, folder, [*shared, *own, f"regularizer={arm}", f"seed={seed}"], own, experiment)


def tuned_settings(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides that ``compare tune=true`` chose for each arm, as conf/tuned holds them.

    They hold for the model that they were chosen with; another one has none.
    """
    found, model = OmegaConf.select(config, "tuned.arms"), OmegaConf.select(config, "tuned.model")
    if found is None or (model is not None and model != choice(config, "model")):
        return {}
    return {str(arm): list(settings) for arm, settings in found.items()}


def _shared_weight(share: float | None, arm: str) -> list[str]:
    """The overrides that give an arm's penalty a share of the gradient; none for an arm without a penalty.

    The share holds through the whole training, and in the loss, where there is a gradient to share.
    """
    if share is None:
        return []
    own = compose("train", [f"regularizer={arm}"]).regularizer
    if own.penalty is None:
        return []
    apply = ["regularizer.apply=loss"] if "apply" in own else []
    weight = f"regularizer.weight={{_target_:ortho_lightning.GradientShare,share:{share}}}"
    return [weight, "regularizer.schedule=null", *apply]


def _sets_weight(override: str) -> bool:
    return _key(override) == "regularizer.weight" or _key(override).startswith("regularizer.weight.")


def _key(override: str) -> str:
    return override.lstrip("+~").split("=")[0]
