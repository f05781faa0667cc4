"""The overview of a run: its hyperparameters and configuration for the logs, its results for the terminal."""

from __future__ import annotations

from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ortho_lightning.callbacks.monitoring import loggers
from ortho_lightning.experiments.common.records import RunRecord
from ortho_lightning.tables import markdown_table

# The scalars that runs are judged by, and their titles.
_JUDGED_BY = {"test/accuracy": "test accuracy", "val/accuracy": "validation accuracy"}
_ANGLES_BY = {
    "angle_std": "angle std (degrees)",
    "spread_ratio": "angle std / random",
    "response_angle_std": "response angle std (degrees)",
}
_SHOWN = ("regularizer", "weight", "share", "lambda1", "lambda2", "gamma")


def log_overview(trainer: Any, config: DictConfig) -> None:
    """Give the loggers the resolved configuration as a text, and the hyperparameters that runs are sorted by."""
    loggers.log_text(trainer, "config", f"```yaml\n{OmegaConf.to_yaml(config, resolve=True)}```")
    name = OmegaConf.select(config, "callbacks.orthogonality.name", default="ortho")
    judged_by = {**_JUDGED_BY, **{f"{name}/{key}": title for key, title in _ANGLES_BY.items()}}
    loggers.log_hyperparameters(trainer, hyperparameters(config), judged_by, _SHOWN)


def hyperparameters(config: DictConfig) -> dict[str, str | float]:
    """Return the same names for every run, so that they make one table; "-" where a regularizer has no such number."""
    values: dict[str, str | float] = {}
    for group in ("regularizer", "model", "data"):
        values[group] = choice(config, group)
        if group == "regularizer":
            weight = OmegaConf.select(config, "callbacks.orthogonality.weight", default=0.0)
            share = weight.get("share") if isinstance(weight, DictConfig) else None
            values |= {"weight": "-" if share is not None else weight, "share": "-" if share is None else share}
            for name in ("lambda1", "lambda2", "gamma"):
                number = OmegaConf.select(config, f"regularizer.penalty.{name}")
                values[name] = "-" if number is None else float(number)
    values["seed"] = config.seed
    return values


def choice(config: DictConfig, group: str) -> str:
    """Return the name of the chosen file in a Hydra group; where Hydra did not choose, that of the class."""
    if HydraConfig.initialized():
        return str(HydraConfig.get().runtime.choices[group])
    key = "regularizer.penalty._target_" if group == "regularizer" else f"{group}._target_"
    return str(OmegaConf.select(config, key, default="none")).rpartition(".")[2]


def summary(record: RunRecord) -> str:
    """Return the layers' angles and the accuracies of a finished run, for the terminal."""
    rows = [
        [
            "layer",
            "k",
            "d",
            "angle mean (deg)",
            "std (deg)",
            "std / random",
            "largest |cos|",
            "response std (deg)",
        ]
    ]
    for layer in record.layers:
        values = (layer.values.get(name) for name in ("mean", "std", "spread_ratio", "max_abs_cos", "response_std"))
        shown = ("-" if value is None else f"{value:.2f}" for value in values)
        rows.append([layer.name, str(layer.k), str(layer.d), *shown])
    lines = [markdown_table(rows), ""] if record.layers else []
    for accuracy, title in ((record.val_accuracy, "validation accuracy"), (record.test_accuracy, "test accuracy")):
        if accuracy is not None:
            lines.append(f"{title} {100 * accuracy:.2f}%")
    if record.penalty is not None:
        lines.append(f"penalty {record.penalty:.4g}, before its weight")
    return "\n".join(lines)
