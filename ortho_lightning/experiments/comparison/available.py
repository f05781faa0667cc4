"""The arms that there are, and those that ``regularizers=all`` stands for: all whose requirements are installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_utilities.core.imports import RequirementCache
from omegaconf import DictConfig, ListConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError
from ortho_lightning.experiments.common.cli import conf_dir

BASELINE = "none"
ALL = "all"


def known_arms() -> list[str]:
    """Return the names of all arms, the baseline first."""
    names = (path.stem for path in Path(conf_dir(), "regularizer").glob("*.yaml"))
    return sorted(names, key=lambda name: (name != BASELINE, name))


def arms_with(path: Sequence[str]) -> list[str]:
    """Return the names of the arms whose files have a key, given by its parts."""
    return [arm for arm in known_arms() if _has(OmegaConf.to_container(_file(arm), resolve=False), path)]


def missing_requirements() -> dict[str, str]:
    """Return what an arm needs and this environment lacks, by arm; arms that lack nothing are left out.

    An arm names its requirements under ``requires`` in its file, as pip takes them.
    """
    found: dict[str, str] = {}
    for arm in known_arms():
        own = OmegaConf.select(_file(arm), "requires")
        missing = [requirement for requirement in own or () if not RequirementCache(requirement)]
        if missing:
            found[arm] = ", ".join(missing)
    return found


def expand_arms(config: DictConfig) -> Mapping[str, str]:
    """Replace ``regularizers=all`` in a comparison's configuration by the arms that it stands for.

    Returns:
        What each arm that was left out for it needs.
    """
    if config.regularizers != ALL:
        return {}
    missing = missing_requirements()
    config.regularizers = [arm for arm in known_arms() if arm not in missing]
    return missing


def check_baseline(baseline: str, arms: Sequence[str]) -> None:
    """Reject an arm to compare with that is not there, unless nobody asked for it.

    Raises:
        ConfigurationError: naming the arms.
    """
    if baseline != BASELINE and baseline not in arms:
        raise ConfigurationError(f"baseline={baseline!r}: there are {list(arms)}")


def _file(arm: str) -> DictConfig | ListConfig:
    return OmegaConf.load(Path(conf_dir(), "regularizer", f"{arm}.yaml"))


def _has(tree: Any, path: Sequence[str]) -> bool:
    return not path or (isinstance(tree, dict) and path[0] in tree and _has(tree[path[0]], path[1:]))
