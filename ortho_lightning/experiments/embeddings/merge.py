"""``ortho-whiten merge=a.safetensors,b.safetensors``: one whitening of the vectors that several were fitted on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict

import torch
from omegaconf import DictConfig

from ortho_lightning.errors import ConfigurationError, DataError
from ortho_lightning.experiments.embeddings.fit import fitted, summary
from ortho_lightning.experiments.embeddings.options import hyperparameters, output_path, writing
from ortho_lightning.nn import Whitening
from ortho_lightning.nn.hyperparameters import Hyperparameters


def merge_files(config: DictConfig, given: Collection[str] = ()) -> None:
    """Merge the whitenings in ``config.merge``, names with commas between, write ``config.out``, and print a summary.

    The hyper-parameters are those of the files, unless given.
    """
    out = output_path(config, ".safetensors")
    names = [name.strip() for name in str(config.merge).split(",") if name.strip()]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise ConfigurationError(
            f"merge={config.merge}: name two or more different files with commas between, "
            "merge=a.safetensors,b.safetensors"
        )
    parts = [Whitening.load(name) for name in names]
    moments = parts[0].moments
    for name, part in zip(names[1:], parts[1:], strict=True):
        if part.moments.d != moments.d:
            raise DataError(f"{name} was fitted on vectors of {part.moments.d} numbers, {names[0]} on {moments.d}")
        moments = moments.merge(part.moments)
    chosen = _chosen(config, given, dict(zip(names, parts, strict=True)))
    is_double = any(part.projection.dtype == torch.float64 for part in parts)
    whitening = fitted(moments, chosen, is_double, config.merge)
    with writing(out):
        whitening.save(out)
    print(summary(config.out, whitening))


def _chosen(config: DictConfig, given: Collection[str], parts: dict[str, Whitening]) -> Hyperparameters:
    found: dict[str, object] = {}
    asked = asdict(hyperparameters(config))
    for name in asked:
        values = {file: asdict(part.hyperparameters)[name] for file, part in parts.items()}
        if "whitening" in given or name in given or f"whitening.{name}" in given:
            found[name] = asked[name]
        elif len(set(values.values())) > 1:
            listed = ", ".join(f"{value} in {file}" for file, value in values.items())
            raise ConfigurationError(f"{name} is {listed}: give the one to use, {name}=...")
        else:
            found[name] = next(iter(values.values()))
    return Hyperparameters(**found)  # type: ignore[arg-type]
