"""A model of the zoo: its name, how it is made, and an input for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ortho_lightning.errors import ConfigurationError


@dataclass(frozen=True)
class Subject:
    """A model to train for a step.

    Attributes:
        name: of the model, with that of its package in front, ``"timm/vit_tiny_patch16_224"``; torchvision's without.
        size: edge of its square images; 0: its input is something else.
        make: makes the network, from the global random state.
        inputs: makes the keyword arguments of its forward, or the only argument under "".
    """

    name: str
    size: int
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]

    def answer(self, network: nn.Module, inputs: dict[str, Any]) -> Any:
        """Return what the network answers to the inputs."""
        return network(inputs[""]) if "" in inputs else network(**inputs)


def subjects(package: str) -> list[str]:
    """Return the names of the models that the zoo has of "torchvision", "timm" or "transformers"."""
    # here: each is a package of its own to import
    if package == "timm":
        from ortho_lightning.experiments.subjects import timm_models

        return timm_models.names()
    if package == "transformers":
        from ortho_lightning.experiments.subjects import transformers_models

        return transformers_models.names()
    from ortho_lightning.experiments.subjects import torchvision_models

    return torchvision_models.names()


def find_subject(name: str) -> Subject:
    """Return the model of a name.

    Raises:
        ConfigurationError: for a name that its package does not have, listing those there are.
    """
    package, _, _ = name.rpartition("/")
    if package not in ("", "timm", "transformers"):
        raise ConfigurationError(f"model {name!r}: the packages are torchvision (no prefix), timm/ and transformers/")
    known = subjects(package or "torchvision")
    if name not in known:
        raise ConfigurationError(f"model {name!r}: {package or 'torchvision'} has {', '.join(known)}")
    if package == "timm":
        from ortho_lightning.experiments.subjects import timm_models

        return timm_models.subject(name)
    if package == "transformers":
        from ortho_lightning.experiments.subjects import transformers_models

        return transformers_models.subject(name)
    from ortho_lightning.experiments.subjects import torchvision_models

    return torchvision_models.subject(name)
