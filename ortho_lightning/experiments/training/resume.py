"""The checkpoint that ``ckpt_path=last`` stands for, and the identity of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ortho_lightning.errors import ConfigurationError

# A run goes on with more epochs, another folder or another display; anything else makes it another run.
_MAY_DIFFER = {"ckpt_path", "run_dir"}
_TRAINER_MAY_DIFFER = {"max_epochs", "max_steps", "max_time", "default_root_dir", "enable_progress_bar", "profiler"}


def find_checkpoint(config: DictConfig) -> str | None:
    """Return the checkpoint to resume from, or None to start anew.

    ``last`` is that of this run's folder if it has one, else that of the newest run beside it with the same
    configuration, but for its length.

    Raises:
        ConfigurationError: if there is none, or a path that does not exist was given.
    """
    if config.ckpt_path is None:
        return None
    if config.ckpt_path != "last":
        path = Path(config.ckpt_path).expanduser()
        if not path.is_file():
            raise ConfigurationError(f"ckpt_path={config.ckpt_path}: there is no such file; 'last' finds the newest")
        return str(path)
    here = Path(config.run_dir)
    own = here / "checkpoints" / "last.ckpt"
    if own.is_file():
        return str(own)
    wanted = identity(OmegaConf.to_container(config, resolve=True))
    candidates = sorted(
        here.parent.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    for candidate in candidates:
        saved = candidate.parent.parent / "config.yaml"
        if saved.is_file() and identity(OmegaConf.to_container(OmegaConf.load(saved))) == wanted:
            return str(candidate)
    raise ConfigurationError(
        f"ckpt_path=last: of {len(candidates)} runs with a checkpoint in {here.parent} none has this configuration; "
        "repeat the overrides of the run to resume, or give the path of its checkpoint"
    )


def identity(config: Any) -> dict[str, Any]:
    """Return the part of a resolved configuration that two runs must share for one to resume the other."""
    kept = {key: value for key, value in config.items() if key not in _MAY_DIFFER | {"logger"}}
    kept["trainer"] = {key: value for key, value in config["trainer"].items() if key not in _TRAINER_MAY_DIFFER}
    kept["callbacks"] = {name: {**part, "dirpath": None} for name, part in config["callbacks"].items() if part}
    return kept


def exact_identity(config: Any) -> dict[str, Any]:
    """Return the identity of a resumable run together with its length: what makes a finished run the wanted one."""
    length = {key: config["trainer"][key] for key in ("max_epochs", "max_steps")}
    kept = identity(config)
    return {**kept, "trainer": {**kept["trainer"], **length}}
