"""The runs of a comparison: arms times seeds, and each arm's own settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir
from ortho_lightning.experiments.common.invocation import override_key
from ortho_lightning.experiments.common.option_types import is_list_of
from ortho_lightning.experiments.comparison.available import arms_with, known_arms
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
    "arms",
    "share",
    "tuned",
    "regularizer",
    "seed",
}
_WEIGHT = "regularizer.weight"
# In what one arm may differ from the others: not in the data, the seed or the place of its files.
_MAY_DIFFER = ("regularizer.", "model.", "trainer.", "callbacks.", "pretrained=")
_SET_BY_SHARE = ("regularizer.schedule", "regularizer.apply")


def plan(config: DictConfig, overrides: Sequence[str], folder: Path) -> list[Run]:
    """Return the runs in the order in which they are made.

    Seeds are outermost, so that an interrupted comparison has compared whole seeds.

    Args:
        config: the composed configuration: ``seeds``, ``regularizers``, ``share``, and the settings of single arms,
            those of ``arms`` and the ``tuned`` ones.
        overrides: those of the command line, which every run gets unless ``arms`` says otherwise.
        folder: under which each run has its own.

    Raises:
        ConfigurationError: for arms that do not exist, or nothing to compare.
    """
    arms, seeds = check_arms(config)
    tuned, single = tuned_settings(config), arm_settings(config)
    given, own = {}, {}
    for arm in arms:
        alone = single.get(arm, [])
        given[arm] = [*_without(alone, overrides), *_shared_weight(config.share, arm)]
        own[arm] = [*_without(alone, tuned.get(arm, [])), *alone]
    return [make_run(arm, seed, folder / f"{arm}-seed{seed}", given[arm], own[arm]) for seed in seeds for arm in arms]


def check_overrides(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject overrides that a comparison would ignore.

    Raises:
        ConfigurationError: naming what to give instead.
    """
    tried = [key for arm in config.regularizers for key in arm_grid(config, arm)] if config.tune else []
    for text in overrides:
        key = override_key(text)
        if key in ("seed", "regularizer"):
            raise ConfigurationError(f"{text}: a comparison takes lists, seeds=[0,1,2] and regularizers=[none,lsh]")
        if key == "tuned" and not text.startswith("~") and OmegaConf.select(config, "tuned") is None:
            known = sorted(path.stem for path in Path(conf_dir(), "tuned").glob("*.yaml"))
            raise ConfigurationError(f"{text}: there are {known}")
        if any(_is_replaced(one, [text]) for one in tried):
            raise ConfigurationError(f"{text}: tune=true tries grid's values of it; leave it out, or change the grid")


def check_arm_settings(config: DictConfig, arms: Sequence[str]) -> None:
    """Reject settings of single arms that a comparison would ignore.

    Args:
        config: the composed configuration.
        arms: of the whole comparison.

    Raises:
        ConfigurationError: naming what to give instead.
    """
    for arm, settings in arm_settings(config).items():
        if config.gather is not None:
            raise ConfigurationError(f"arms.{arm}={settings}: the runs of gather={config.gather} have their settings")
        if arm not in arms:
            raise ConfigurationError(f"arms.{arm}={settings}: the arms are {list(arms)}")
        if config.tune:
            raise ConfigurationError(
                f"arms.{arm}={settings}: tune=true reads grid.{arm}, where a key may have one value"
            )


def for_one_arm(key: str) -> str | None:
    """Say how to set a key of the configuration that only some arms have."""
    if not key.startswith("regularizer."):
        return None
    having = arms_with(key.split(".")[1:])
    if not having:
        return "No arm has this key"
    arm = "lsh" if "lsh" in having else having[0]
    return f"""Not every arm has this key; for {arm}, which has it: '+arms.{arm}=["{key}=VALUE"]'"""


def check_share(config: DictConfig, overrides: Sequence[str]) -> None:
    """Reject a share of the gradient for all arms that cannot be, or other weights beside it.

    Raises:
        ConfigurationError: naming the value.
    """
    if config.share is None:
        return
    GradientShare(config.share)
    given = [*overrides, *(text for own in arm_settings(config).values() for text in own)]
    ignored = [text for text in given if override_key(text).startswith(_SET_BY_SHARE)]
    if ignored:
        raise ConfigurationError(f"share={config.share} holds in the loss, through the whole training: no {ignored[0]}")
    others = [text for text in given if _sets_weight(text)]
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
    own = _without(overrides, settings)
    shared = [text for text in overrides if _is_of_training(text)]
    experiment = str(HydraConfig.get().runtime.choices["experiment"]) if HydraConfig.initialized() else None
    return Run(arm, seed, folder, [*shared, *own, f"regularizer={arm}", f"seed={seed}"], own, experiment)


def tuned_settings(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides that ``compare tune=true`` chose for each arm, as conf/tuned holds them.

    They hold for the model that they were chosen with; another one has none.
    """
    found, model = OmegaConf.select(config, "tuned.arms"), OmegaConf.select(config, "tuned.model")
    if found is None or (model is not None and model != choice(config, "model")):
        return {}
    return {str(arm): list(settings) for arm, settings in _unresolved(found).items()}


def arm_settings(config: DictConfig) -> dict[str, list[str]]:
    """Return the overrides that the option ``arms`` gives to single arms.

    Raises:
        ConfigurationError: for what is not a list of overrides of a training, for each arm.
    """
    example = """as in '+arms.lsh=["regularizer.penalty.gamma=20"]'"""
    given = _unresolved(config).get("arms") or {}
    if not isinstance(given, dict):
        raise ConfigurationError(f"arms={given}: must be a list of settings for each arm, {example}")
    for arm, settings in given.items():
        if not isinstance(settings, list) or not all(isinstance(text, str) and "=" in text for text in settings):
            raise ConfigurationError(f"arms.{arm}={settings}: must be a list of KEY=VALUE, {example}")
        for text in settings:
            if not text.lstrip("+").startswith(_MAY_DIFFER):
                raise ConfigurationError(f"arms.{arm}={settings}: {override_key(text)} is the same for all arms")
    return given


def _unresolved(config: Any) -> Any:
    """A part of a configuration in which references, such as ${seed}, are left to each run."""
    return OmegaConf.to_container(config, resolve=False)


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
    return override_key(override) == _WEIGHT or override_key(override).startswith(f"{_WEIGHT}.")


def _is_of_training(override: str) -> bool:
    key = override_key(override)
    return key.split(".")[0] not in _OWN or key.startswith("regularizer.")


def _without(settings: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The overrides that settings do not replace."""
    return [text for text in overrides if not _is_replaced(text, settings)]


def _is_replaced(override: str, settings: Sequence[str]) -> bool:
    """Whether settings have the key of an override, or one sets the weight and the other a part of it."""
    keys = {override_key(text) for text in settings}
    if override_key(override) == _WEIGHT:
        return any(_sets_weight(text) for text in settings)
    return override_key(override) in keys or (_sets_weight(override) and _WEIGHT in keys)
